"""Rules that decide nothing, by proof: over all clusters, or with workloads given over these. See `coverage`."""

from __future__ import annotations

from collections.abc import Iterator

from harness.lint.coverage import How
from harness.lint.finding import Remark, Severity
from harness.lint.given import Given
from harness.lint.policy import LintedPolicy
from harness.lint.registry import rule
from harness.model.verdict import RuleRef


@rule(
    "HL601",
    "allow-under-deny",
    Severity.WARNING,
    bad="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api, tier: front}
          - fromEndpoints:
              - matchLabels: {app: shop}
        ingressDeny:
          - fromEndpoints:
              - matchLabels: {tier: front}
    """,
    good="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
          - fromEndpoints:
              - matchLabels: {app: shop}
        ingressDeny:
          - fromEndpoints:
              - matchLabels: {tier: front}
    """,
)
def allow_under_deny(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """An allow rule of which a deny rule denies everything: deny wins, however narrow the allow. Removing the allow changes no verdict."""
    if given.idle(policy):
        return
    for each in given.of_policy(policy).values():
        if each.how is How.DENIED:
            message = f"this allows nothing: {_named(each.by.ref, policy)} denies all of it, and deny wins"
            yield Remark(policy.rule_place(each.rule.ref), message, "narrow the deny, or remove this")


@rule(
    "HL602",
    "covered-rule",
    Severity.INFO,
    bad="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
          - fromEndpoints:
              - matchLabels: {app: api, tier: front}
            toPorts:
              - ports: [{port: "8080", protocol: TCP}]
    """,
    good="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
    """,
)
def covered_rule(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """A rule that another covers: the same or more peers, ports and endpoints. Removing it changes no verdict. Of two that say the same,
    the first stays."""
    if given.idle(policy):
        return
    for each in given.of_policy(policy).values():
        if each.how is How.COVERED:
            what = "denies" if each.rule.deny else "allows"
            message = f"{_named(each.by.ref, policy)} {what} all that this {what}"
            yield Remark(policy.rule_place(each.rule.ref), message, "remove it, or narrow the other")


@rule(
    "HL603",
    "policy-decides-nothing",
    Severity.WARNING,
    bad="""
        kind: CiliumNetworkPolicy
        metadata: {name: everyone, namespace: shop}
        spec:
          endpointSelector: {}
          ingress:
            - fromEntities: [cluster]
        ---
        apiVersion: cilium.io/v2
        kind: CiliumNetworkPolicy
        metadata: {name: web, namespace: shop}
        spec:
          endpointSelector: {matchLabels: {app: web}}
          ingress:
            - fromEntities: [cluster]
              toPorts:
                - ports: [{port: "8080", protocol: TCP}]
    """,
    good="""
        kind: CiliumNetworkPolicy
        metadata: {name: web, namespace: shop}
        spec:
          endpointSelector: {matchLabels: {app: web}}
          ingress:
            - fromEntities: [cluster]
              toPorts:
                - ports: [{port: "8080", protocol: TCP}]
    """,
)
def policy_decides_nothing(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """A policy of which other policies cover or deny every rule: with or without it, every verdict is the same. Mostly the other policy
    is wider than somebody thinks."""
    if given.idle(policy):
        others = dict.fromkeys(str(each.by.ref) for each in given.of_policy(policy).values())
        message = f"no verdict depends on this policy: {', '.join(others)} decide{'s' if len(others) == 1 else ''} all of it"
        yield Remark(policy.name_place, message, "narrow the other, or remove this")


def _named(ref: RuleRef, policy: LintedPolicy) -> str:
    return ref.path if ref.policy == policy.ref else str(ref)
