"""Default deny: what turns it on, what does not, and whom it forgets."""

from __future__ import annotations

from collections.abc import Iterator

from harness.cases.document import Items, Table, Text
from harness.lint.containment import disjoint
from harness.lint.finding import Remark, Severity
from harness.lint.given import Given
from harness.lint.policy import LISTS, LintedPolicy
from harness.lint.registry import rule
from harness.model.labels import reserved
from harness.model.traffic import Direction
from harness.policy.identities import holds
from harness.policy.rules import LabelSelector

_COUNTED = ("Endpoints", "Nodes", "Entities", "CIDR", "CIDRSet")
"""The kinds of peers of which an empty list means nobody."""
_HEALTH = frozenset({reserved("health")})
_CHECKED = (_HEALTH, frozenset({reserved("remote-node")}))


@rule(
    "HL101",
    "empty-list",
    Severity.WARNING,
    bad="""
        ingress: []
        egress:
          - toEndpoints:
              - matchLabels: {app: api}
          - toEntities: [cluster]
            toPorts: [{ports: [{port: "53", protocol: ANY}]}]
    """,
    good="""
        ingress: [{}]
        egress:
          - toEndpoints:
              - matchLabels: {app: api}
          - toEntities: [cluster]
            toPorts: [{ports: [{port: "53", protocol: ANY}]}]
    """,
)
def empty_list(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """An empty list beside one that is not empty says nothing: that direction is not denied, it stays as it is. In a Kubernetes
    NetworkPolicy with `policyTypes` the same words deny everything."""
    if policy.kubernetes:
        return
    for spec in policy.specs():
        lists = [(key, spec.table[key]) for key, _, _ in LISTS if isinstance(spec.table.get(key), Items)]
        if all(not items for _, items in lists):
            continue
        for key, items in lists:
            if not items:
                fix = f"remove it, or write `{key}: [{{}}]` to deny by default"
                yield Remark(policy.at(f"{spec.path}.{key}"), f"`{key}: []` says nothing: it denies nothing by default", fix)


@rule(
    "HL102",
    "nobody",
    Severity.WARNING,
    bad="""
        ingress:
          - fromEndpoints: []
            toPorts:
              - ports: [{port: "8080"}]
    """,
    good="""
        ingress:
          - toPorts:
              - ports: [{port: "8080"}]
    """,
)
def nobody(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """An empty list of peers is nobody, with ports or without, and beside other peers too. A tool that reads the policy and writes it
    again may drop the list, and then the same element is everybody."""
    for element in policy.elements():
        for suffix in _COUNTED:
            key = f"{element.way}{suffix}"
            if element.table.get(key) == []:
                what = "denies" if element.deny else "allows"
                message = f"`{key}: []` is nobody: this element {what} nothing"
                yield Remark(
                    policy.at(f"{element.path}.{key}"), message, f"name peers; for everybody remove `{key}`, for default deny write `{{}}`"
                )


@rule(
    "HL103",
    "own-namespace",
    Severity.INFO,
    bad="""
        ingress:
          - fromEndpoints: [{}]
    """,
    good="""
        ingress:
          - fromEndpoints:
              - matchExpressions:
                  - {key: k8s:io.kubernetes.pod.namespace, operator: Exists}
    """,
)
def own_namespace(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """`{}` as a peer in a CiliumNetworkPolicy means the pods of the policy's own namespace, not all pods, and nobody outside. If that
    is what you want, ignore this rule; the good example means all pods."""
    if policy.kubernetes or policy.clusterwide:
        return
    for element in policy.elements():
        for path, each in element.items("fromEndpoints", "toEndpoints"):
            if each == {}:
                what = "denied" if element.deny else "allowed"
                message = f"`{{}}` is every pod of namespace {policy.ref.namespace}: pods of others and the world are not {what} by it"
                yield Remark(
                    policy.at(path),
                    message,
                    "to mean all pods, write matchExpressions: [{key: k8s:io.kubernetes.pod.namespace, operator: Exists}]",
                )


@rule(
    "HL104",
    "no-port",
    Severity.WARNING,
    bad="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
            toPorts: [{}]
    """,
    good="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
    """,
)
def no_port(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """`toPorts: [{}]`, `ports: []` and `icmps: [{}]` match no port, so the element matches nothing. `toPorts: []` is the same as no
    `toPorts`: every port."""
    for element in policy.elements():
        for key, inner in (("toPorts", "ports"), ("icmps", "fields")):
            items = element.items(key)
            if items and not policy.kubernetes and all(isinstance(each, Table) and not each.get(inner) for _, each in items):
                what = "denies" if element.deny else "allows"
                yield Remark(
                    policy.at(items[0][0]), f"no {inner} here: this element {what} nothing", f"name {inner}, or remove `{key}` for all"
                )


@rule(
    "HL105",
    "deny-without-allow",
    Severity.WARNING,
    bad="""
        ingressDeny:
          - fromEntities: [world]
    """,
    good="""
        enableDefaultDeny: {ingress: false}
        ingressDeny:
          - fromEntities: [world]
    """,
)
def deny_without_allow(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """A deny rule turns on default deny as an allow rule does. With no allow rule for the same endpoints, everything is dropped, not
    only what is denied. Allow rules in any policy that is given count."""
    for direction in Direction:
        denies = [
            each
            for each in policy.rules(direction, deny=True)
            if each.default_deny and each.peers is not None and (each.peers or each.ports)
        ]
        if not denies:
            continue
        subjects = {each.subject for each in denies}
        if any(not disjoint(each.subject, subject) for each in given.allows(direction) for subject in subjects):
            continue
        side = direction.value
        message = f"this denies all {side}, not only what {side}Deny names: no policy here allows any {side}"
        fix = f"add an allow rule, or `enableDefaultDeny: {{{side}: false}}`"
        yield Remark(policy.rule_place(denies[0].ref), message, fix)


@rule(
    "HL106",
    "default-deny-without-element",
    Severity.ERROR,
    bad="""
        enableDefaultDeny: {ingress: true, egress: true}
        egress: [{}]
    """,
    good="""
        ingress: [{}]
        egress: [{}]
    """,
)
def default_deny_without_element(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """`enableDefaultDeny: {ingress: true}` without an element of ingress or ingressDeny has no effect: there is nothing to carry it."""
    for spec in policy.specs():
        stated = spec.table.get("enableDefaultDeny")
        for direction in Direction if isinstance(stated, Table) else ():
            node = stated.get(direction.value) if isinstance(stated, Table) else None
            if isinstance(node, Text) and node.value is True and not any(spec.of(direction)):
                side = direction.value
                message = f"no {side} or {side}Deny element carries this: {side} is not denied by default"
                yield Remark(policy.at(f"{spec.path}.enableDefaultDeny.{side}"), message, f"write `{side}: [{{}}]`")


@rule(
    "HL107",
    "denies-nobody",
    Severity.WARNING,
    bad="""
        ingressDeny: [{}]
        ingress:
          - fromEntities: [cluster]
    """,
    good="""
        ingressDeny:
          - fromEntities: [world]
        ingress:
          - fromEntities: [cluster]
    """,
)
def denies_nobody(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """An empty element of a deny list denies nobody: it only turns on default deny. What allow rules allow still passes."""
    for element in policy.elements():
        if element.deny and not element.table:
            yield Remark(
                policy.at(element.path),
                "an empty deny element denies nobody: allow rules still win",
                "name what is denied: `fromEntities: [all]` is everybody",
            )


@rule(
    "HL108",
    "everybody",
    Severity.INFO,
    bad="""
        kind: NetworkPolicy
        metadata: {name: open, namespace: shop}
        spec:
          podSelector: {matchLabels: {app: web}}
          ingress: [{}]
    """,
    good="""
        kind: NetworkPolicy
        metadata: {name: closed, namespace: shop}
        spec:
          podSelector: {matchLabels: {app: web}}
          policyTypes: [Ingress]
          ingress: []
    """,
)
def everybody(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """In a Kubernetes NetworkPolicy an empty rule, or an empty list of peers, allows everybody, the world included. The same words in
    a CiliumNetworkPolicy (`ingress: [{}]`) deny everything."""
    if not policy.kubernetes:
        return
    for element in policy.elements():
        if not element.table:
            yield Remark(
                policy.at(element.path),
                "an empty rule allows everybody, the world included",
                f"to deny all, write `{element.direction.value}: []` and name the direction in policyTypes",
            )
        elif element.table.get(element.way) == []:
            yield Remark(
                policy.at(f"{element.path}.{element.way}"),
                f"`{element.way}: []` is everybody, the world included",
                f"name peers, or remove `{element.way}`",
            )


@rule(
    "HL109",
    "policy-types",
    Severity.WARNING,
    bad="""
        kind: NetworkPolicy
        metadata: {name: web, namespace: shop}
        spec:
          podSelector: {matchLabels: {app: web}}
          policyTypes: [Ingress]
          egress:
            - to: [{podSelector: {matchLabels: {app: api}}}]
            - ports: [{port: 53, protocol: UDP}]
    """,
    good="""
        kind: NetworkPolicy
        metadata: {name: web, namespace: shop}
        spec:
          podSelector: {matchLabels: {app: web}}
          policyTypes: [Ingress, Egress]
          egress:
            - to: [{podSelector: {matchLabels: {app: api}}}]
            - ports: [{port: 53, protocol: UDP}]
    """,
)
def policy_types(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """Rules of a direction that `policyTypes` does not name. Kubernetes says they do not count; Cilium enforces them all the same, with
    default deny in that direction."""
    spec = policy.table.get("spec")
    types = spec.get("policyTypes") if policy.kubernetes and isinstance(spec, Table) else None
    if not isinstance(types, Items) or not isinstance(spec, Table):
        return
    for direction in Direction:
        if spec.get(direction.value) and direction.value.title() not in types:
            message = f"policyTypes does not name {direction.value.title()}, and Cilium enforces these rules all the same"
            yield Remark(
                policy.at(f"spec.{direction.value}"), message, f"add {direction.value.title()} to policyTypes, or remove the rules"
            )


@rule(
    "HL110",
    "forgets-health",
    Severity.WARNING,
    bad="""
        kind: CiliumClusterwideNetworkPolicy
        metadata: {name: default-deny}
        spec:
          endpointSelector: {}
          ingress: [{}]
    """,
    good="""
        kind: CiliumClusterwideNetworkPolicy
        metadata: {name: default-deny}
        spec:
          endpointSelector: {}
          ingress:
            - fromEntities: [health, remote-node]
    """,
)
def forgets_health(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """An empty endpointSelector in a clusterwide policy selects Cilium's own health endpoints too. Default deny without an allow for
    `health` and `remote-node` makes every node report the others as unreachable."""
    for direction in Direction:
        denying = [each for each in policy.rules(direction) if each.default_deny and not each.node and holds(each.subject, _HEALTH)]
        if not denying:
            continue
        allows = [each for each in given.allows(direction) if not each.node and holds(each.subject, _HEALTH)]
        peers = [peer for each in allows for peer in each.peers or () if isinstance(peer, LabelSelector)]
        anyone = any(each.peers == () and each.ports for each in allows)
        if not anyone and not any(holds(peer, labels) for peer in peers for labels in _CHECKED):
            way = "from" if direction is Direction.INGRESS else "to"
            message = f"denies the {direction.value} of Cilium's health endpoints too"
            fix = f"add an element `{way}Entities: [health, remote-node]`, or select pods only: {{key: k8s:io.kubernetes.pod.namespace, operator: Exists}}"
            yield Remark(policy.rule_place(denying[0].ref), message, fix)
            return
