"""Objects that a cluster refuses, drops fields of, or reads otherwise than they are written."""

from __future__ import annotations

from collections.abc import Iterator

from harness.cases.document import Table, Text
from harness.cases.suggest import closest, did_you_mean
from harness.lint.finding import Remark, Severity, whole_lines
from harness.lint.given import Given
from harness.lint.policy import LISTS, LintedPolicy
from harness.lint.registry import rule
from harness.policy.fields import unknown_in

_ENTITIES = (
    "all", "world", "cluster", "cluster-mesh", "host", "remote-node", "kube-apiserver", "init", "ingress", "health", "unmanaged", "none",
)  # fmt: skip
_MEANT = {
    "kube-dns": "write toEndpoints with `k8s:io.kubernetes.pod.namespace: kube-system` and `k8s:k8s-app: kube-dns`",
    "coredns": "write toEndpoints with `k8s:io.kubernetes.pod.namespace: kube-system` and `k8s:k8s-app: kube-dns`",
    "dns": "write toEndpoints with `k8s:io.kubernetes.pod.namespace: kube-system` and `k8s:k8s-app: kube-dns`",
    "internet": "write `world`",
    "external": "write `world`",
    "node": "write `host` for the pod's own node, `remote-node` for the others",
    "nodes": "write `host` for the pod's own node, `remote-node` for the others",
    "localhost": "write `host`",
    "apiserver": "write `kube-apiserver`",
    "any": "write `all`",
    "world-ipv4": "write toCIDR (or fromCIDR) with `0.0.0.0/0`",
    "world-ipv6": "write toCIDR (or fromCIDR) with `::/0`",
}
"""What people write instead of an entity, and what they mean."""
_IMAGINED = {
    "cilium.io/policy-audit-mode": "audit mode is a setting of the agents (helm `policyAuditMode`); for one policy, `enableDefaultDeny` "
    "with `ingress: false` lets everything pass that no deny rule matches",
    "policy.cilium.io/audit-mode": "audit mode is a setting of the agents (helm `policyAuditMode`)",
    "cilium.io/encrypt": "encryption is a setting of the cluster (helm `encryption.enabled` and `encryption.type`)",
    "cilium.io/encryption": "encryption is a setting of the cluster (helm `encryption.enabled` and `encryption.type`)",
}


@rule(
    "HL001",
    "refused",
    Severity.ERROR,
    bad="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
            fromCIDR: [192.0.2.0/24]
    """,
    good="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
          - fromCIDR: [192.0.2.0/24]
    """,
)
def refused(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """The API server does not take the object, or the agent does not enforce it: `kubectl apply` then succeeds, the policy has
    `Valid=False` in its status, and nothing of it is in force. One bad element is enough for the whole object."""
    error = policy.parsed.error
    if error is None or "Entities[" in error.path or _all_empty(policy) is not None or unknown_in(policy.document) is not None:
        return
    who = "the API server refuses this" if error.stage.value == "schema" else "the agent does not enforce this (Valid=False)"
    message = error.message.removeprefix(f"{error.path}: ")
    yield Remark(
        policy.at(error.path) if error.path else policy.name_place, f"{who}: {message}", "correct it; nothing of the policy is in force"
    )


@rule(
    "HL002",
    "unknown-field",
    Severity.ERROR,
    bad="""
        ingress:
          - fromEndpoint:
              - matchLabels: {app: api}
            toPorts:
              - ports: [{port: "8080"}]
    """,
    good="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
            toPorts:
              - ports: [{port: "8080"}]
    """,
)
def unknown_field(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """A field that no supported version of Cilium knows. An API server that is not asked to be strict drops it, and the policy means
    something else without it: the bad example allows everybody."""
    unknown = unknown_in(policy.document)
    if unknown is not None:
        message = f"unknown field `{unknown.name}`: a cluster drops it, and the policy means something else without it"
        yield Remark(policy.at(unknown.path), message, did_you_mean(unknown.name, unknown.known))


@rule(
    "HL003",
    "imagined-annotation",
    Severity.WARNING,
    bad="""
        kind: CiliumNetworkPolicy
        metadata:
          name: audit
          namespace: shop
          annotations:
            cilium.io/policy-audit-mode: "enabled"
        spec:
          endpointSelector: {matchLabels: {app: web}}
          ingress:
            - {}
    """,
    good="""
        enableDefaultDeny:
          ingress: false
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
    """,
)
def imagined_annotation(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """Cilium reads no annotations of policies. `cilium.io/policy-audit-mode` and `cilium.io/encrypt` are found in tutorials only: the
    policy is enforced as always, and nothing is encrypted because of it."""
    metadata = policy.table["metadata"]
    annotations = metadata.get("annotations")
    if not isinstance(annotations, Table):
        return
    for key, value in annotations.entries():
        if str(key) in _IMAGINED:
            alone = len(annotations) == 1
            owner = metadata.key("annotations") if alone else key
            block = not annotations.flow and not metadata.flow and isinstance(value, Text)
            edits = whole_lines(owner.place.to(value.place)) if block else ()
            yield Remark(key.place, f"nobody reads the annotation `{key}`", f"remove it: {_IMAGINED[str(key)]}", edits)


@rule(
    "HL004",
    "unknown-entity",
    Severity.ERROR,
    bad="""
        egress:
          - toEntities: [kube-dns]
    """,
    good="""
        egress:
          - toEndpoints:
              - matchLabels:
                  k8s:io.kubernetes.pod.namespace: kube-system
                  k8s:k8s-app: kube-dns
            toPorts:
              - ports: [{port: "53", protocol: ANY}]
    """,
)
def unknown_entity(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """The API server refuses an entity that does not exist, and so the whole policy. There is none for DNS: pods are selected by labels."""
    error = policy.parsed.error
    if error is None or "Entities[" not in error.path:
        return
    for element in policy.elements():
        for path, each in element.items("fromEntities", "toEntities"):
            if path == error.path:
                near = closest(str(each), _ENTITIES)
                known = f"did you mean `{near}`?" if near else f"there are {', '.join(_ENTITIES)}"
                yield Remark(policy.at(path), f"there is no entity `{each}`: the policy is refused", _MEANT.get(str(each), known))


@rule(
    "HL005",
    "unused-ignore",
    Severity.WARNING,
    bad="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}  # harness: ignore[HL201]
    """,
    good="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
    """,
)
def unused_ignore(_policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """A `# harness: ignore[ID]` comment that silences nothing, mostly because what it was for has been corrected. Comments for rules
    that did not run (not selected, or no workloads given) are left alone."""
    return iter(())  # found by `run`, when all other rules have spoken


@rule(
    "HL006",
    "twice-in-a-file",
    Severity.ERROR,
    bad="""
        kind: CiliumNetworkPolicy
        metadata: {name: web, namespace: shop}
        spec:
          endpointSelector: {matchLabels: {app: web}}
          ingress: [{}]
        ---
        apiVersion: cilium.io/v2
        kind: CiliumNetworkPolicy
        metadata: {name: web, namespace: shop}
        spec:
          endpointSelector: {matchLabels: {app: web}}
          egress: [{}]
    """,
    good="""
        kind: CiliumNetworkPolicy
        metadata: {name: web-ingress, namespace: shop}
        spec:
          endpointSelector: {matchLabels: {app: web}}
          ingress: [{}]
        ---
        apiVersion: cilium.io/v2
        kind: CiliumNetworkPolicy
        metadata: {name: web-egress, namespace: shop}
        spec:
          endpointSelector: {matchLabels: {app: web}}
          egress: [{}]
    """,
)
def twice(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """Two objects of one kind, namespace and name in one file: the second replaces the first, and only the second is in force."""
    last = given.last_of_name(policy)
    if last is not policy:
        other = last.name_place.line
        yield Remark(
            policy.name_place, f"line {other} replaces this: it has the same kind, namespace and name", "give each a name of its own"
        )


@rule(
    "HL007",
    "fails-open",
    Severity.ERROR,
    bad="""
        ingress: []
        egress: []
    """,
    good="""
        ingress: [{}]
        egress: [{}]
    """,
)
def fails_open(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """A policy whose lists are all empty denies nothing. Since 1.17 the agent refuses it (`rule must have at least one of Ingress,
    IngressDeny, Egress, EgressDeny`), before it was ignored; either way all traffic passes. A list with one empty element is what
    denies everything."""
    path = _all_empty(policy)
    if path is not None:
        yield Remark(
            policy.at(path),
            "empty lists only: the agent refuses the policy, and everything stays allowed",
            "to deny all, write `ingress: [{}]` and `egress: [{}]`",
        )


def _all_empty(policy: LintedPolicy) -> str | None:
    """The path of the first list of a spec that has nothing but empty ones."""
    if policy.kubernetes:
        return None
    for spec in policy.specs():
        lists = [key for key, _, _ in LISTS if key in spec.table]
        if lists and all(spec.table[key] == [] for key in lists):
            return f"{spec.path}.{lists[0]}"
    return None
