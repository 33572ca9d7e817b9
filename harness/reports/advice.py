"""What most likely has to be changed, as one sentence, where the evidence allows to say so. Never part of a verdict.

Reads policies as they were written, for near misses only. Says nothing where it would have to guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.cases.case import Case, PolicyObject
from harness.clusters.base import Observation
from harness.engine.outcome import CheckResult, PolicyFinding
from harness.model.traffic import Direction, RequestKind
from harness.model.verdict import Decision, DirectionVerdict, PolicyRef
from harness.reports.written import (
    KUBERNETES,
    Party,
    Rule,
    fits,
    labels_of,
    listed_ports,
    match_labels,
    near_miss,
    nearest_label,
    party_named,
    peer_differs,
    probed_port,
    rules,
    shown,
    specs,
    width,
)

_ALLOW_ANY = "allow-any-"
"""How the rules begin that Cilium adds where no policy turns on default deny."""


def for_check(result: CheckResult, case: Case, policies: Sequence[PolicyObject]) -> str:
    """The sentence for a check that did not pass, or ''."""
    row = result.judgement.row
    source, target = party_named(result.source, case), party_named(result.target, case)
    if row == 1:
        return _unusable(result, target)
    if row == 3 and (lookup := _lookup_alone(result)):
        return _not_resolved(lookup, source)
    prediction = result.prediction
    if prediction is None:
        return ""
    if row == 3:
        side = prediction.dropped_at
        if side is None:
            return ""
        verdict = prediction.egress if side is Direction.EGRESS else prediction.ingress
        subject, peer = (source, target) if side is Direction.EGRESS else (target, source)
        return _not_admitted(side, verdict, subject, peer, target, policies)
    if row == 6:
        return _admitted(prediction.egress, prediction.ingress, source, target, policies)
    if row == 5 and result.expectation.at and prediction.dropped_at is not None and prediction.dropped_at is not result.expectation.at:
        return f"it never gets to the {result.expectation.at} side: a policy of the other side drops it first; state `at: {prediction.dropped_at}` or allow it there"
    return ""


def for_finding(finding: PolicyFinding, case: Case, policies: Sequence[PolicyObject]) -> str:
    """The sentence for a policy that does nothing: the label that was probably meant."""
    policy = next((each for each in policies if each.ref == finding.ref), None)
    if policy is None or finding.kind not in ("inert", "rejected", "uncovered"):
        return ""
    for spec, path in specs(policy):
        selector = match_labels(spec.get("endpointSelector") or spec.get("podSelector"))
        local = [each for each in case.endpoints.values() if not policy.ref.namespace or each.namespace == policy.ref.namespace]
        if selector and not any(fits(selector, labels_of(each)) for each in local):
            if away := [each for each in case.endpoints.values() if fits(selector, labels_of(each))]:
                return f"a namespaced policy selects in its own namespace only ({policy.ref.namespace}); {away[0].name} is in {away[0].namespace}"
            if near := nearest_label(selector, local):
                return f"{path}selects {shown(selector)}; {near}"
        for direction in ("ingress", "egress"):
            if spec.get(direction) == [] and policy.ref.kind != KUBERNETES:
                return f"`{direction}: []` enforces nothing; to deny all, write `{direction}: [{{}}]`"
    return ""


def _unusable(result: CheckResult, target: Party) -> str:
    why = result.judgement.why
    if why.startswith("the baseline did not hold"):
        return "make the baseline phase pass first; nothing that follows can be told from a broken connection"
    if why.startswith(("refused", "the target is not proven alive")):
        declared = listed_ports(target.endpoint)
        return f"see that {target.shown} really serves {probed_port(target)}" + (f"; it declares {declared}" if declared else "")
    if "AUDIT" in why:
        return "take the endpoint out of audit mode, or state `audit:` instead"
    return ""


def _lookup_alone(result: CheckResult) -> Observation | None:
    """The lookup that had to come before the probe, and after which there was none."""
    first, *more = result.observations or (None,)
    if first is None or more or result.expectation.request is not None or first.probe.request is None:
        return None
    return first if first.probe.request.kind is RequestKind.LOOKUP else None


def _not_resolved(lookup: Observation, source: Party) -> str:
    name = lookup.probe.request.name if lookup.probe.request else ""
    if any(flow.is_l7 and flow.dropped for flow in lookup.flows):
        return f"no DNS rule lets {source.shown} ask for {name}: add it to `rules: {{dns: [...]}}` of the rule for port 53"
    return (
        f"egress of {source.shown} is restricted and nothing lets its lookups out: allow port 53 of kube-dns, "
        "with `rules: {dns: [...]}` where `toFQDNs` is to learn the answers"
    )


def _not_admitted(
    side: Direction, verdict: DirectionVerdict, subject: Party, peer: Party, target: Party, policies: Sequence[PolicyObject]
) -> str:
    if verdict.decision is Decision.DENY_RULE:
        return "a deny rule wins over every allow: narrow it, or state `deny:`"
    if verdict.decision is not Decision.DEFAULT_DENY:
        return ""
    selecting = set(verdict.selecting)
    chosen = [each for each in policies if each.ref in selecting] or policies
    for policy in chosen:
        for rule in rules(policy, side):
            if rule.is_about(subject) and (near := near_miss(rule, policy.ref, peer, target)):
                return f"default deny at {side} of {subject.shown}; the nearest rule is {policy.ref} {rule.path}: {near}"
    mixed_up = next((text for policy in policies if (text := _mixed_up(side, policy, subject, peer))), "")
    return f"default deny at {side} of {subject.shown}: {mixed_up or f'no rule admits {peer.shown} on {probed_port(target)}'}"


def _mixed_up(side: Direction, policy: PolicyObject, subject: Party, peer: Party) -> str:
    """A rule that names the two, but under the other direction, or the other way round. '' where there is none."""
    opposite = Direction.INGRESS if side is Direction.EGRESS else Direction.EGRESS
    word = "from" if side is Direction.INGRESS else "to"
    for about, named, direction, advice in (
        (subject, peer, opposite, f"what it names belongs under `{side}`, as `{word}...`"),
        (peer, subject, side, f"select {subject.shown} and name {peer.shown} in `{side}`"),
    ):
        if policy.ref.namespace and about.endpoint and policy.ref.namespace != about.endpoint.namespace:
            continue
        for rule in rules(policy, direction):
            if rule.is_about(about) and not rule.others and any(_names(each, policy.ref, named, rule) for each in rule.peers or ()):
                verb = "reach" if direction is Direction.EGRESS else "be reached by"
                return f"{policy.ref} {rule.path} is about whom {about.shown} may {verb}: {advice}"
    return ""


def _names(selector: Mapping[str, Any], ref: PolicyRef, party: Party, rule: Rule) -> bool:
    """Whether a peer selector names the endpoint by a label of its own: one that selects everybody tells nothing of what was meant."""
    try:
        named = bool(match_labels(selector.get("podSelector") if rule.kubernetes else selector))
        return named and party.endpoint is not None and peer_differs(selector, ref, party.endpoint, kubernetes=rule.kubernetes) is None
    except (AttributeError, TypeError, ValueError):
        return False  # a policy of another shape than the schema's has been refused elsewhere


def _admitted(egress: DirectionVerdict, ingress: DirectionVerdict, source: Party, target: Party, policies: Sequence[PolicyObject]) -> str:
    admitting = [*ingress.rules, *egress.rules]
    if ingress.rules or egress.rules:
        widest = next((rule for rule in admitting if rule.policy.kind != "reserved"), None)
        if widest is None:
            if any(rule.path.startswith(_ALLOW_ANY) for rule in admitting):
                return _without_default_deny({Direction.EGRESS: egress, Direction.INGRESS: ingress}, policies)
            return "a rule that Cilium adds itself admits it (the node's own host reaches its pods)"
        written = next(
            (
                rule
                for policy in policies
                if policy.ref == widest.policy
                for side in Direction
                for rule in rules(policy, side)
                if widest.path.split(".from[")[0].split(".to[")[0] == rule.path
            ),
            None,
        )
        wide = f": {width(written)}" if written and width(written) else ""
        return f"{widest} admits it{wide}; narrow that rule, or state `allow:`"
    for policy in policies:
        for spec, _ in specs(policy):
            selects = match_labels(spec.get("endpointSelector"))
            if (
                policy.ref.kind != KUBERNETES
                and spec.get("ingress") == []
                and target.endpoint
                and fits(selects, labels_of(target.endpoint))
            ):
                return f"{policy.ref} has `ingress: []`, which enforces nothing; to deny all, write `ingress: [{{}}]`"
    if not ingress.enforced and not egress.enforced:
        return f"nothing is enforced: no policy in force restricts ingress of {target.shown} or egress of {source.shown}"
    return ""


def _without_default_deny(verdicts: Mapping[Direction, DirectionVerdict], policies: Sequence[PolicyObject]) -> str:
    """Policies that restrict, but were told not to turn on default deny: what no rule denies gets through."""
    for policy in policies:
        for spec, path in specs(policy):
            told = spec.get("enableDefaultDeny")
            for side, verdict in verdicts.items():
                if isinstance(told, Mapping) and told.get(side.value) is False and policy.ref in verdict.selecting:
                    return f"{policy.ref} {path}says `enableDefaultDeny: {{{side}: false}}`, so what no rule denies is allowed; remove that, or state `allow:`"
    return ""
