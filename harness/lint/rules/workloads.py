"""What only the workloads tell: selectors that match nothing, services that do not exist, policies that cannot be merged."""

from __future__ import annotations

from collections.abc import Iterator

from harness.cases.document import Items, Table
from harness.lint.finding import Remark, Severity
from harness.lint.given import Given
from harness.lint.policy import LintedPolicy, selector_keys
from harness.lint.registry import rule
from harness.model.cluster import Pod
from harness.model.labels import CLUSTER_LABEL, K8S, NAMESPACE_LABEL, RESERVED
from harness.model.traffic import Direction
from harness.policy.rules import LabelSelector

_SHOP = """
    apiVersion: v1
    kind: Pod
    metadata: {name: web, namespace: shop, labels: {app: web, tier: front}}
    spec: {containers: [{name: web, ports: [{name: http, containerPort: 8080}]}]}
    ---
    apiVersion: v1
    kind: Pod
    metadata: {name: api, namespace: shop, labels: {app: api, tier: back}}
    spec: {containers: [{name: api}]}
    ---
    apiVersion: v1
    kind: Pod
    metadata: {name: cart, namespace: shop, labels: {app: cart, tier: back}}
    spec: {containers: [{name: cart}]}
    ---
    apiVersion: v1
    kind: Pod
    metadata: {name: db, namespace: shop, labels: {app: db, tier: back}}
    spec: {containers: [{name: db}]}
    ---
    apiVersion: v1
    kind: Service
    metadata: {name: api, namespace: shop}
    spec: {selector: {app: api}, ports: [{port: 8080}]}
"""
_CLOSED = """
    kind: CiliumNetworkPolicy
    metadata: {name: default-deny, namespace: shop}
    spec:
      endpointSelector: {}
      ingress: [{}]
    ---
    apiVersion: cilium.io/v2
"""


@rule(
    "HL701",
    "open-namespace",
    Severity.INFO,
    workloads=_SHOP,
    bad="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
    """,
    good="""
        endpointSelector: {}
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
    """,
)
def open_namespace(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """A namespace with workloads that no policy puts into default deny on ingress: anybody may connect to them. Told once per
    namespace, at its first policy."""
    if policy.clusterwide or next(each for each in given.policies if each.ref.namespace == policy.ref.namespace) is not policy:
        return
    subjects = given.evaluator.subjects
    names = [
        ref.name
        for ref, subject in subjects.pods.items()
        if ref.namespace == policy.ref.namespace
        and not any(subjects.rules[at].default_deny for at in subjects.rules_for(subject, Direction.INGRESS))
    ]
    if names:
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        message = f"anybody may connect to {shown} in namespace {policy.ref.namespace}: no policy denies ingress by default"
        yield Remark(policy.at("metadata.namespace"), message, "add a policy with `endpointSelector: {}` and `ingress: [{}]`")


@rule(
    "HL702",
    "selects-nothing",
    Severity.WARNING,
    workloads=_SHOP,
    bad=_CLOSED
    + """
    kind: CiliumNetworkPolicy
    metadata: {name: web, namespace: shop}
    spec:
      endpointSelector: {matchLabels: {app: wep}}
      ingress:
        - fromEndpoints:
            - matchLabels: {app: api}
    """,
    good=_CLOSED
    + """
    kind: CiliumNetworkPolicy
    metadata: {name: web, namespace: shop}
    spec:
      endpointSelector: {matchLabels: {app: web}}
      ingress:
        - fromEndpoints:
            - matchLabels: {app: api}
    """,
)
def selects_nothing(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """A policy that selects none of the given workloads, or does nothing to those that it selects. The message says which requirement
    no pod meets, and what comes nearest."""
    if not given.in_force(policy):
        return
    inert = given.evaluator.status(policy.ref).inert
    if inert:
        spec = next(policy.specs(), None)
        keys = [key for key in ("endpointSelector", "nodeSelector", "podSelector") if spec is not None and key in spec.table]
        place = policy.at(f"{spec.path}.{keys[0]}") if spec is not None and keys else policy.name_place
        yield Remark(place, f"this policy does nothing: {inert}", "correct the selector, or give all workloads with -f")


@rule(
    "HL703",
    "peer-selects-nothing",
    Severity.WARNING,
    workloads=_SHOP,
    bad="""
        endpointSelector: {}
        ingress:
          - fromEndpoints:
              - matchLabels: {app: aip}
    """,
    good="""
        endpointSelector: {}
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
    """,
)
def peer_selects_nothing(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """A peer that selects none of the given workloads. An allow that allows nobody is noticed by whoever does not get through; a deny
    that denies nobody is noticed by nobody."""
    if not given.in_force(policy):
        return
    select = given.evaluator.identities.select
    for each in policy.parsed.rules:
        for peer in each.peers or ():
            if isinstance(peer, LabelSelector) and _of_pods(peer) and not select(peer).certain:
                what = "denies" if each.deny else "allows"
                yield Remark(
                    policy.rule_place(each.ref),
                    f"{what} {_shown(peer, policy)}, and no workload has that",
                    "correct the labels, or give all workloads with -f",
                )


@rule(
    "HL704",
    "unresolved-service",
    Severity.ERROR,
    workloads=_SHOP,
    bad="""
        endpointSelector: {}
        ingress: [{}]
        egress:
          - toServices:
              - k8sService: {serviceName: apis, namespace: shop}
            toPorts:
              - ports: [{port: "8080", protocol: TCP}, {port: "53", protocol: ANY}]
    """,
    good="""
        endpointSelector: {}
        ingress: [{}]
        egress:
          - toServices:
              - k8sService: {serviceName: api, namespace: shop}
            toPorts:
              - ports: [{port: "8080", protocol: TCP}, {port: "53", protocol: ANY}]
    """,
)
def unresolved_service(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """ToServices that names no service there is. With toPorts the element then has no peer at all, which is every peer: those ports are
    open to everybody, the world included. Without ports it allows nothing."""
    resolved = given.resolved if given.in_force(policy) else {}
    for each in policy.rules(Direction.EGRESS, deny=False):
        if each.services and not resolved[each.ref].peers:
            effect = "these ports are open to everybody" if each.ports else "this allows nothing"
            base = each.ref.path if each.ref.path.startswith("specs[") else f"spec.{each.ref.path}"
            yield Remark(
                policy.at(f"{base}.toServices"),
                f"no such service in the given workloads: {effect}",
                "correct the name, or write toEndpoints",
            )


@rule(
    "HL705",
    "policies-clash",
    Severity.ERROR,
    workloads=_SHOP,
    bad="""
        endpointSelector: {}
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
            authentication: {mode: disabled}
          - fromEndpoints:
              - matchLabels: {app: api}
            authentication: {mode: test-always-fail}
    """,
    good="""
        endpointSelector: {}
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
            authentication: {mode: disabled}
    """,
)
def policies_clash(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """Rules for the same peers and port that cannot be merged: two authentication modes, two kinds of L7 rules, two certificates. Cilium
    then computes no policy for the endpoint, and keeps what it had before."""
    if given.in_force(policy) and policy.ref in given.clashes:
        name, error = given.clashes[policy.ref]
        yield Remark(policy.name_place, f"Cilium cannot compute the policy of {name}: {error}", "make the rules agree")


@rule(
    "HL706",
    "one-shared-label",
    Severity.INFO,
    workloads=_SHOP,
    bad="""
        endpointSelector: {}
        ingress:
          - fromEndpoints:
              - matchExpressions:
                  - {key: app, operator: In, values: [api, cart, db]}
    """,
    good="""
        endpointSelector: {}
        ingress:
          - fromEndpoints:
              - matchLabels: {tier: back}
    """,
)
def one_shared_label(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """A list of three or more values where one label that those pods share, and no other pod of the namespace has, says the same. The
    list has to be kept up to date, the label comes with the pods."""
    state = given.evaluator.state
    for path, selector in policy.selectors():
        expressions = selector.get("matchExpressions")
        only = expressions[0] if isinstance(expressions, Items) and len(expressions) == 1 and "matchLabels" not in selector else None
        if not isinstance(only, Table) or str(only.get("operator")) != "In" or len(only.get("values") or ()) < 3:
            continue
        values = {str(each) for each in only["values"]}
        key = next((str(text).removeprefix("k8s:").removeprefix("any:") for _, text, _ in selector_keys(path, selector)), "")
        mine = [pod for pod in state.pods if pod.ref.namespace == policy.ref.namespace and not pod.host_network]
        chosen = [pod for pod in mine if pod.labels.get(key) in values]
        shared = _shared(chosen, [pod for pod in mine if pod not in chosen])
        if {pod.labels[key] for pod in chosen} == values and shared:
            yield Remark(policy.at(f"{path}.matchExpressions"), f"`{shared}` selects the same pods", f"write matchLabels: {{{shared}}}")


@rule(
    "HL707",
    "port-name-nobody-has",
    Severity.WARNING,
    workloads=_SHOP,
    bad="""
        endpointSelector: {}
        ingress:
          - toPorts:
              - ports: [{port: https, protocol: TCP}]
    """,
    good="""
        endpointSelector: {}
        ingress:
          - toPorts:
              - ports: [{port: http, protocol: TCP}]
    """,
)
def port_name_nobody_has(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """A named port on ingress that none of the selected pods declares with that protocol: this part of the rule matches nothing."""
    subjects = given.evaluator.subjects
    for each in policy.rules(Direction.INGRESS) if given.in_force(policy) else ():
        selected = [subject for subject in subjects.pods.values() if subjects.selected_by(each, subject)]
        known = {name for subject in selected for name, _ in subject.ports}
        for port in (port for item in each.ports for port in item.ports if port.name):
            protocols = {6, 17, 132} if port.protocol is None else {port.protocol.number}
            if selected and not any((port.name, protocol) in known for protocol in protocols):
                protocol = f" with protocol {port.protocol}" if port.protocol else ""
                yield Remark(
                    policy.rule_place(each.ref),
                    f"no selected pod declares a port `{port.name}`{protocol}",
                    "correct the name, or write the number",
                )


def _of_pods(selector: LabelSelector) -> bool:
    """Whether a selector is one that somebody wrote for pods: reserved labels and the entity `cluster` are always somewhere."""
    return bool(selector.requirements) and all(each.source != RESERVED for each in selector.requirements)


def _shown(selector: LabelSelector, policy: LintedPolicy) -> str:
    """The selector without what Cilium adds."""
    written = [
        each
        for each in selector.requirements
        if not (
            each.source == K8S and (each.key == CLUSTER_LABEL or (each.key == NAMESPACE_LABEL and each.values == (policy.ref.namespace,)))
        )
    ]
    return ", ".join(map(str, written)) or f"pods of namespace {policy.ref.namespace}"


def _shared(pods: list[Pod], others: list[Pod]) -> str:
    """A label that all of the pods and none of the others have, as written in YAML."""
    common = set.intersection(*(set(pod.labels.items()) for pod in pods)) if len(pods) > 1 else set()
    common -= {item for pod in others for item in pod.labels.items()}
    return next((f"{key}: {value}" for key, value in sorted(common)), "")
