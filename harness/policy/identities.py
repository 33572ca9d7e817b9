"""Everything that has an identity: pods by their security-relevant labels, entities, prefixes. Which of them a selector selects.

Sets of identities are integers used as bitsets; an identity's bit is its position in `IdentityTable.identities`.
Sources: pkg/labelsfilter/filter.go, pkg/labels, pkg/ipcache/metadata.go, pkg/policy/types/{selector,requirements}.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from msgspec import Struct

from harness.model.cluster import ClusterState, Pod
from harness.model.identity import CLUSTER_IDENTITY_MIN, LOCAL_IDENTITY_MIN, Identity, ReservedIdentity
from harness.model.labels import (
    ANY,
    CIDR,
    CIDR_GROUP,
    CLUSTER_LABEL,
    FQDN,
    K8S,
    NAMESPACE_LABEL,
    NAMESPACE_LABELS_PREFIX,
    SERVICE_ACCOUNT_LABEL,
    Label,
    Labels,
    reserved,
)
from harness.model.traffic import EntityName, PodRef
from harness.policy.fqdn import FQDNMatcher
from harness.policy.options import Options
from harness.policy.prefix import Prefix, PrefixTable, parse_address, parse_prefix
from harness.policy.rules import (
    CIDRGroupSelector,
    CIDRSelector,
    FQDNSelector,
    GroupsSelector,
    LabelSelector,
    Operator,
    PeerSelector,
    Requirement,
)

METADATA_NAME = "kubernetes.io/metadata.name"
_NODE_SOURCE = "node"
_STATE_OFFSET = 0x400000
_LEARNED_OFFSET = 0x800000

_INCLUDED = tuple(
    re.compile(pattern)
    for pattern in (
        re.escape(NAMESPACE_LABEL),
        re.escape("io.cilium.k8s.namespace.labels"),
        re.escape("app.kubernetes.io"),
        re.escape(CLUSTER_LABEL),
        re.escape(SERVICE_ACCOUNT_LABEL),
    )
)
_IGNORED = tuple(
    re.compile(pattern)
    for pattern in (
        r"io\.kubernetes",
        r"kubernetes\.io",
        re.escape("statefulset.kubernetes.io/pod-name"),
        re.escape("apps.kubernetes.io/pod-index"),
        re.escape("batch.kubernetes.io/job-completion-index"),
        re.escape("batch.kubernetes.io/controller-uid"),
        r".*beta\.kubernetes\.io",
        r"k8s\.io",
        r"pod-template-generation",
        r"pod-template-hash",
        r"controller-revision-hash",
        r"controller-uid",
        r"annotation.*",
        r"etcd_node",
        r"topology\.kubernetes\.io",
    )
)
_RESERVED_NUMBERS: Mapping[EntityName, tuple[ReservedIdentity, tuple[str, ...]]] = {
    EntityName.HOST: (ReservedIdentity.HOST, ("host",)),
    EntityName.REMOTE_NODE: (ReservedIdentity.REMOTE_NODE, ("remote-node",)),
    EntityName.KUBE_APISERVER: (ReservedIdentity.KUBE_APISERVER, ("kube-apiserver", "remote-node")),
    EntityName.HEALTH: (ReservedIdentity.HEALTH, ("health",)),
    EntityName.INIT: (ReservedIdentity.INIT, ("init",)),
    EntityName.INGRESS: (ReservedIdentity.INGRESS, ("ingress",)),
    EntityName.UNMANAGED: (ReservedIdentity.UNMANAGED, ("unmanaged",)),
}
_NODE_ENTITIES = (EntityName.HOST, EntityName.REMOTE_NODE, EntityName.KUBE_APISERVER)


@lru_cache(maxsize=4096)
def security_relevant(key: str) -> bool:
    """Whether a pod label counts for the identity under the default label filter."""
    included = max((match.end() for each in _INCLUDED if (match := each.match(key))), default=0)
    ignored = min((match.end() for each in _IGNORED if (match := each.match(key))), default=0)
    return ignored == 0 or included > ignored


def pod_labels(pod: Pod, namespaces: Mapping[str, Mapping[str, str]]) -> Labels:
    """The labels of a pod's identity."""
    found = {key: value for key, value in pod.labels.items() if security_relevant(key)}
    found[NAMESPACE_LABEL] = pod.ref.namespace
    for key, value in namespaces.get(pod.ref.namespace, {}).items():
        found[NAMESPACE_LABELS_PREFIX + key] = value
    found.setdefault(f"{NAMESPACE_LABELS_PREFIX}{METADATA_NAME}", pod.ref.namespace)
    found[CLUSTER_LABEL] = pod.cluster
    if pod.service_account:
        found[SERVICE_ACCOUNT_LABEL] = pod.service_account
    return frozenset(map(_label, found, found.values()))


@lru_cache(maxsize=1 << 16)
def _label(key: str, value: str) -> Label:
    """Cached: most labels are those of other pods too."""
    return Label(K8S, key, value)


def node_labels(labels: Mapping[str, str]) -> Labels:
    """The labels of a node's host endpoint, which nodeSelector looks at."""
    return frozenset({reserved("host"), *(Label(K8S, key, value) for key, value in labels.items() if security_relevant(key))})


def cidr_label(prefix: Prefix) -> Label:
    """`cidr:10.0.0.0/8`; in IPv6 the colons become dashes (`cidr:2001-db8--0/32`)."""
    address, _, length = str(prefix).partition("/")
    text = address.replace(":", "-")
    text = f"0{text}" if text.startswith("-") else text
    text = f"{text}0" if text.endswith("-") else text
    return Label(CIDR, f"{text}/{length}")


def bits(mask: int) -> Iterator[int]:
    """The positions of the bits that are set."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


class Selection(Struct, frozen=True):
    """The identities that a selector selects for certain, and those of which an input is missing to tell."""

    certain: int
    maybe: int = 0


class IdentityTable:
    """The identities of a cluster state under a set of policy prefixes.

    `numbers` gives each prefix that policies name an offset for its identity number. `learned` maps addresses to the names that DNS
    taught for them.
    """

    def __init__(
        self,
        state: ClusterState,
        options: Options,
        numbers: Mapping[Prefix, int],
        learned: Mapping[str, Iterable[str]],
    ) -> None:
        self.options = options
        self.identities: list[Identity] = []
        self.prefixes: list[Prefix | None] = []
        self.pods: dict[PodRef, int] = {}
        self.entities: dict[EntityName, int] = {}
        self.remote_nodes: dict[str, int] = {}
        self.by_prefix: dict[Prefix, int] = {}
        self._names: dict[int, frozenset[str]] = {}
        self._groups = [(group, tuple(parse_prefix(text) for text in group.cidrs)) for group in state.cidr_groups]
        self._selections: dict[PeerSelector, Selection] = {}
        self._positions: dict[str, int] = {}
        self._add_entities(state)
        self._add_pods(state)
        self.endpoints = (1 << len(self.identities)) - 1
        """Those that an endpoint can have: no prefix."""
        self._add_prefixes(state, numbers, learned)
        self.world = _union(1 << position for position in self.by_prefix.values())
        self.nodes = _union(1 << at for at in (*(self.entities[name] for name in _NODE_ENTITIES), *self.remote_nodes.values()))
        self.everything = (1 << len(self.identities)) - 1
        self._table = PrefixTable(self.by_prefix)
        self._by_key: dict[str, dict[tuple[str, str], int]] = {}
        for position, identity in enumerate(self.identities):
            for label in identity.labels:
                values = self._by_key.setdefault(label.key, {})
                at = (label.source, label.value)
                values[at] = values.get(at, 0) | 1 << position

    def _add(self, number: int, labels: Labels, prefix: Prefix | None = None) -> int:
        self.identities.append(Identity(number, labels))
        self.prefixes.append(prefix)
        return len(self.identities) - 1

    def _add_entities(self, state: ClusterState) -> None:
        for name, (number, words) in _RESERVED_NUMBERS.items():
            self.entities[name] = self._add(number, frozenset(map(reserved, words)))
        if self.options.node_selector_labels:
            for index, node in enumerate(sorted({*state.nodes, *(pod.node for pod in state.pods)})):
                labels = {reserved("remote-node"), Label(K8S, CLUSTER_LABEL, self.options.cluster_name)}
                labels |= {Label(_NODE_SOURCE, key, value) for key, value in state.nodes.get(node, {}).items()}
                self.remote_nodes[node] = self._add(LOCAL_IDENTITY_MIN * 2 + index + 1, frozenset(labels))

    def _add_pods(self, state: ClusterState) -> None:
        positions: dict[Labels, int] = {}
        for pod in state.pods:
            if pod.host_network:
                continue
            labels = pod_labels(pod, state.namespaces)
            position = positions.get(labels)
            if position is None:
                position = positions[labels] = self._add(CLUSTER_IDENTITY_MIN + len(positions), labels)
            self.pods[pod.ref] = position

    def _add_prefixes(self, state: ClusterState, numbers: Mapping[Prefix, int], learned: Mapping[str, Iterable[str]]) -> None:
        single = not (self.options.ipv4 and self.options.ipv6)
        if single:
            world = self._add(ReservedIdentity.WORLD, frozenset({reserved("world")}), Prefix(4 if self.options.ipv4 else 6, 0, 0))
            self.by_prefix = {Prefix(4, 0, 0): world, Prefix(6, 0, 0): world}
        else:
            for version, reserved_number in ((4, ReservedIdentity.WORLD_IPV4), (6, ReservedIdentity.WORLD_IPV6)):
                everywhere = Prefix(version, 0, 0)
                self.by_prefix[everywhere] = self._add(reserved_number, frozenset({reserved(f"world-ipv{version}")}), everywhere)
        apiservers = {parse_address(each.address) for each in state.externals if each.kube_apiserver}
        grouped = [prefix for _, prefixes in self._groups for prefix in prefixes]
        backends = [parse_address(text) for service in state.services if not service.selector for text in service.backends]
        wanted = {prefix: LOCAL_IDENTITY_MIN + 1 + offset for prefix, offset in numbers.items()}
        for index, prefix in enumerate(dict.fromkeys([*sorted(apiservers), *grouped, *backends])):
            wanted.setdefault(prefix, LOCAL_IDENTITY_MIN + _STATE_OFFSET + index)
        taught = {parse_address(address): frozenset(names) for address, names in learned.items()}
        for index, prefix in enumerate(taught):
            wanted.setdefault(prefix, LOCAL_IDENTITY_MIN + _LEARNED_OFFSET + index)
        for prefix, number in wanted.items():
            if not prefix.length:
                continue
            labels = {cidr_label(prefix), reserved("world" if single else f"world-ipv{prefix.version}")}
            if prefix in apiservers:
                labels.add(reserved("kube-apiserver"))
            labels |= {Label(FQDN, name.rstrip(".")) for name in taught.get(prefix, ())}
            position = self.by_prefix[prefix] = self._add(number, frozenset(labels), prefix)
            if prefix in taught:
                self._names[position] = taught[prefix]

    def of_address(self, address: str) -> int:
        """The position of the identity of an address outside the cluster: that of the longest prefix."""
        position = self._positions.get(address)
        if position is None:
            wanted = parse_address(address)
            prefix = self._table.longest(wanted) or Prefix(wanted.version, 0, 0)
            position = self._positions[address] = self.by_prefix[prefix]
        return position

    def select(self, selector: PeerSelector) -> Selection:
        """What a selector selects. Cached."""
        found = self._selections.get(selector)
        if found is None:
            found = self._selections[selector] = self._select(selector)
        return found

    def _select(self, selector: PeerSelector) -> Selection:
        match selector:
            case LabelSelector():
                return Selection(self._all_of(selector.requirements))
            case CIDRSelector():
                return self._outside(self._within((selector.prefix,), selector.excepts))
            case CIDRGroupSelector():
                return self._outside(self._group(selector))
            case FQDNSelector():
                matcher = FQDNMatcher(selector.match_name, selector.match_pattern)
                certain = sum(1 << at for at, names in self._names.items() if any(map(matcher.matches, names)))
                return Selection(certain, self.world & ~certain if self.options.names_unknown else 0)
            case GroupsSelector():
                return Selection(0, self.world)

    def _outside(self, certain: int) -> Selection:
        """CIDRs match what is outside; nodes and pods only in other match modes, and then their addresses are missing here."""
        maybe = self.nodes if "nodes" in self.options.cidr_match_mode else 0
        if "pods" in self.options.cidr_match_mode and self.options.at_least(1, 20):
            maybe |= self.everything & ~self.world & ~self.nodes
        return Selection(certain & self.world, maybe)

    def _within(self, prefixes: Iterable[Prefix], excepts: Iterable[Prefix]) -> int:
        found = 0
        wanted, unwanted = tuple(prefixes), tuple(excepts)
        for prefix, position in self.by_prefix.items():
            if any(each.contains(prefix) for each in wanted) and not any(each.contains(prefix) for each in unwanted):
                found |= 1 << position
        return found

    def _group(self, selector: CIDRGroupSelector) -> int:
        if selector.name:
            named = [prefix for group, prefixes in self._groups if group.name == selector.name for prefix in prefixes]
            return self._within(named, selector.excepts)
        found = self.world
        for each in selector.labels.requirements if selector.labels else ():
            having = self._within((prefix for group, prefixes in self._groups if _group_has(group.labels, each) for prefix in prefixes), ())
            negative = each.operator in (Operator.NOT_IN, Operator.DOES_NOT_EXIST)
            found &= ~having if negative else having
        return found & ~self._within(selector.excepts, ())

    def _all_of(self, requirements: Iterable[Requirement]) -> int:
        found = self.everything
        for each in requirements:
            found &= self.satisfying(each)
            if not found:
                break
        return found

    def satisfying(self, requirement: Requirement) -> int:
        """The identities for which one requirement holds."""
        source, wanted = requirement.source, requirement.values
        values: Mapping[tuple[str, str], int]
        if source == CIDR:
            mask = self._cidr_key(requirement.key)
            values = {(CIDR, ""): mask}
        else:
            values = self._by_key.get(requirement.key, {})
        match requirement.operator:
            case Operator.EQUALS | Operator.IN:
                return _union(mask for (at, value), mask in values.items() if value in wanted and source in (ANY, at))
            case Operator.NOT_IN:
                return self.everything & ~_union(mask for (at, value), mask in values.items() if value in wanted and source in (ANY, at))
            case Operator.EXISTS:
                return _union(mask for (at, _), mask in values.items() if source in (ANY, at))
            case Operator.DOES_NOT_EXIST:
                return self.everything & ~_union(mask for (at, _), mask in values.items() if source in (ANY, at))

    def _cidr_key(self, key: str) -> int:
        try:
            prefix = parse_prefix(key.replace("-", ":"))
        except ValueError:
            return 0
        return self._within((prefix,), ())


def holds(selector: LabelSelector, labels: Labels) -> bool:
    """Whether one set of labels satisfies a selector, by itself."""
    for each in selector.requirements:
        values = [label.value for label in labels if label.key == each.key and each.source in (ANY, label.source)]
        wanted = any(value in each.values for value in values)
        match each.operator:
            case Operator.EQUALS | Operator.IN:
                satisfied = wanted
            case Operator.NOT_IN:
                satisfied = not wanted
            case Operator.EXISTS:
                satisfied = bool(values)
            case Operator.DOES_NOT_EXIST:
                satisfied = not values
        if not satisfied:
            return False
    return True


def _group_has(labels: Mapping[str, str], requirement: Requirement) -> bool:
    if requirement.source not in (CIDR_GROUP, ANY):
        return False
    if requirement.operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST):
        return requirement.key in labels
    return labels.get(requirement.key) in requirement.values


def _union(masks: Iterable[int]) -> int:
    found = 0
    for mask in masks:
        found |= mask
    return found
