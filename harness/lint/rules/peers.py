"""Peers and subjects that are not what they look like: labels, namespaces, CIDRs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from harness.cases.document import Table, Text
from harness.lint.finding import Remark, Severity
from harness.lint.given import Given
from harness.lint.policy import LintedPolicy, selector_keys
from harness.lint.registry import rule
from harness.model.labels import ANY, K8S, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, RESERVED
from harness.policy.identities import security_relevant
from harness.policy.prefix import Prefix, parse_prefix
from harness.policy.validate import split_source

_POSITIVE = ("=", "In", "Exists")
_NAMESPACE_KEYS = {
    "kubernetes.io/metadata.name": f"the namespace is `k8s:{NAMESPACE_LABEL}`, its labels begin with `k8s:{NAMESPACE_LABELS_PREFIX}`"
}
"""Labels of namespaces that people write where labels of pods are looked at."""


@rule(
    "HL201",
    "label-not-in-identity",
    Severity.ERROR,
    bad="""
        ingress:
          - fromEndpoints:
              - matchLabels: {statefulset.kubernetes.io/pod-name: db-0}
    """,
    good="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: db}
    """,
)
def label_not_in_identity(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """Cilium leaves some labels out of identities (`pod-template-hash`, `statefulset.kubernetes.io/pod-name`, `topology.kubernetes.io/*` and
    their like, unless the agents' label filter says otherwise). A selector that demands one matches no pod; one that excludes one
    excludes nobody."""
    for path, selector in policy.selectors():
        for where, text, operator in selector_keys(path, selector):
            source, key = ("", str(text)) if policy.kubernetes else split_source(str(text))
            if source in ("", ANY, K8S) and not security_relevant(key):
                effect = "this selector matches no pod" if operator in _POSITIVE else "this condition excludes no pod"
                fix = _NAMESPACE_KEYS.get(key, "select by another label")
                yield Remark(policy.at(where), f"the label `{key}` is not part of a pod's identity: {effect}", fix)


@rule(
    "HL202",
    "other-namespace",
    Severity.ERROR,
    bad="""
        endpointSelector:
          matchLabels: {app: web, k8s:io.kubernetes.pod.namespace: billing}
        ingress: [{}]
    """,
    good="""
        kind: CiliumNetworkPolicy
        metadata: {name: web, namespace: billing}
        spec:
          endpointSelector: {matchLabels: {app: web}}
          ingress: [{}]
    """,
)
def other_namespace(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """A CiliumNetworkPolicy selects pods of its own namespace only. Another namespace in its endpointSelector is overwritten (as a
    `k8s:` label) or makes it select nothing. In a podSelector of a Kubernetes NetworkPolicy such a label is overwritten too."""
    if policy.clusterwide:
        return
    mine = policy.ref.namespace
    subjects = ("endpointSelector", "podSelector")
    for path, selector in policy.selectors():
        if not policy.kubernetes and not path.endswith(subjects):
            continue
        labels = selector.get("matchLabels")
        for where, text, operator in selector_keys(path, selector):
            if split_source(str(text))[1] != NAMESPACE_LABEL or operator != "=" or not isinstance(labels, Table):
                continue
            if str(labels[str(text)]) != mine and (policy.kubernetes or split_source(str(text))[0] in ("", ANY, K8S)):
                overwritten = policy.kubernetes or split_source(str(text))[0] == K8S
                effect = f"Cilium overwrites it with {mine}" if overwritten else "the selector matches nothing"
                fix = (
                    "write a namespaceSelector"
                    if policy.kubernetes
                    else f"put the policy into namespace {labels[str(text)]}, or write a clusterwide one"
                )
                yield Remark(policy.at(where), f"this selects pods of namespace {mine} only: {effect}", fix)


@rule(
    "HL203",
    "reserved-lifts-filters",
    Severity.WARNING,
    bad="""
        ingress:
          - fromEndpoints:
              - matchExpressions:
                  - {key: reserved:host, operator: DoesNotExist}
    """,
    good="""
        ingress:
          - fromEndpoints:
              - matchExpressions:
                  - {key: k8s:io.kubernetes.pod.namespace, operator: Exists}
    """,
)
def reserved_lifts_filters(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """A `reserved:` key in a peer takes away what Cilium adds to selectors: the namespace and the cluster. `reserved:host DoesNotExist`
    therefore matches pods of all namespaces and clusters, health endpoints, and the whole world."""
    for path, selector in policy.peer_selectors():
        for where, text, operator in selector_keys(path, selector):
            if split_source(str(text))[0] == RESERVED and operator in ("DoesNotExist", "NotIn") and not policy.kubernetes:
                message = f"`{text} {operator}` matches everything else, the world and all namespaces included"
                yield Remark(policy.at(where), message, "say what you mean to match, not what not")


@rule(
    "HL204",
    "world-label",
    Severity.WARNING,
    bad="""
        ingress:
          - fromEndpoints:
              - matchLabels: {reserved:world: ""}
    """,
    good="""
        ingress:
          - fromEntities: [world]
    """,
)
def world_label(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """In a dual-stack cluster nothing has the label `reserved:world`: addresses outside are `world-ipv4` or `world-ipv6`. The entity
    `world` is all three."""
    for path, selector in policy.peer_selectors():
        for where, text, operator in selector_keys(path, selector):
            if str(text) == "reserved:world" and operator in _POSITIVE and not policy.kubernetes:
                yield Remark(policy.at(where), "`reserved:world` matches nothing in dual-stack clusters", "write the entity `world`")


@rule(
    "HL205",
    "pod-address",
    Severity.WARNING,
    bad="""
        ingress:
          - fromCIDR: [10.244.1.17/32]
    """,
    good="""
        ingress:
          - fromEndpoints:
              - matchLabels: {app: api}
    """,
)
def pod_address(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """CIDR rules match what is outside the cluster. A pod has an identity of its own, so its address in a rule matches nothing, in
    Kubernetes NetworkPolicies too. `--pod-cidr` says where your pods' addresses are; without it the usual ranges of kubeadm and k3s
    are looked for, and only rules wholly inside them are told."""
    for path, prefix in _cidrs(policy):
        for pods in given.ranges.pods:
            if pods.contains(prefix):
                message = f"{prefix} lies in the pods' range {pods}: CIDR rules never match pods"
                yield Remark(policy.at(path), message, "select the pods by their labels")
            elif given.ranges.stated and prefix.length and prefix.contains(pods):
                message = f"{prefix} covers the pods' range {pods}, and matches no pod: only what is outside the cluster"
                yield Remark(policy.at(path), message, "select pods by their labels, in an element of its own")


@rule(
    "HL206",
    "service-address",
    Severity.WARNING,
    bad="""
        egress:
          - toCIDR: [10.96.0.1/32]
    """,
    good="""
        egress:
          - toEntities: [kube-apiserver]
    """,
)
def service_address(policy: LintedPolicy, given: Given) -> Iterator[Remark]:
    """Policy sees the backend of a service, never its ClusterIP: an address of the service range matches nothing. `--service-cidr` says
    where your services' addresses are."""
    for path, prefix in _cidrs(policy):
        inside = next((each for each in given.ranges.services if each.contains(prefix)), None)
        if inside is not None:
            first = inside.network + 1 == prefix.network and prefix.length == prefix.bits
            fix = "write toEntities: [kube-apiserver]" if first else "write toServices, or select the backends by their labels"
            yield Remark(policy.at(path), f"{prefix} lies in the services' range {inside}: policy sees backends, not services", fix)


@rule(
    "HL207",
    "world-by-cidr",
    Severity.INFO,
    bad="""
        ingress:
          - fromCIDR: [0.0.0.0/0, "::/0"]
    """,
    good="""
        ingress:
          - fromEntities: [world]
    """,
)
def world_by_cidr(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """All of IPv4 and all of IPv6 as CIDRs are the entity `world`: outside the cluster, no pods and no nodes. The entity says so, and
    needs no identities of its own."""
    for element in policy.elements():
        for key in ("fromCIDR", "toCIDR"):
            texts = {str(each) for _, each in element.items(key)}
            if {"0.0.0.0/0", "::/0"} <= texts:
                way = key.removesuffix("CIDR")
                yield Remark(
                    policy.at(f"{element.path}.{key}"),
                    "this is the entity `world`: all that is outside the cluster",
                    f"write {way}Entities: [world]",
                )


@rule(
    "HL208",
    "peers-or-peers",
    Severity.INFO,
    bad="""
        kind: NetworkPolicy
        metadata: {name: web, namespace: shop}
        spec:
          podSelector: {matchLabels: {app: web}}
          ingress:
            - from:
                - namespaceSelector: {matchLabels: {team: billing}}
                - podSelector: {matchLabels: {app: api}}
    """,
    good="""
        kind: NetworkPolicy
        metadata: {name: web, namespace: shop}
        spec:
          podSelector: {matchLabels: {app: web}}
          ingress:
            - from:
                - namespaceSelector: {matchLabels: {team: billing}}
                  podSelector: {matchLabels: {app: api}}
    """,
)
def peers_or_peers(policy: LintedPolicy, _given: Given) -> Iterator[Remark]:
    """A namespaceSelector and a podSelector as two items of a list mean either: every pod of those namespaces, and pods of the own
    namespace with those labels. One item with both means pods with those labels in those namespaces; a dash makes the difference."""
    for element in policy.elements() if policy.kubernetes else ():
        items = element.items(element.way)
        for (_, one), (path, other) in pairwise(items):
            if isinstance(one, Table) and isinstance(other, Table) and set(one) == {"namespaceSelector"} and set(other) == {"podSelector"}:
                message = "a peer of its own: these pods of the own namespace, and besides every pod of the namespaces above"
                yield Remark(policy.at(path), message, "for pods with these labels in those namespaces, remove the dash")


def _cidrs(policy: LintedPolicy) -> Iterator[tuple[str, Prefix]]:
    """Every prefix that a policy names as a peer, with its path; exceptions are not peers."""
    for element in policy.elements():
        found: list[tuple[str, object]] = element.items("fromCIDR", "toCIDR")
        for path, each in element.items("fromCIDRSet", "toCIDRSet"):
            if isinstance(each, Table):
                found.append((f"{path}.cidr", each.get("cidr")))
        for path, each in element.items(element.way):
            block = each.get("ipBlock") if isinstance(each, Table) else None
            if isinstance(block, Table):
                found.append((f"{path}.ipBlock.cidr", block.get("cidr")))
        for path, text in found:
            if isinstance(text, Text):
                try:
                    yield path, parse_prefix(str(text))
                except ValueError:
                    continue  # the refusal says so
