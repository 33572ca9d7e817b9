"""The endpoints that policies select, and the table of decisions of each: rules are chosen, merged into filters and made entries.

Endpoints under the same rules share one table. Sources: pkg/policy/repository.go (which rules, default deny, implicit rules),
pkg/policy/l4.go (toMapState: ports, ranges, named ports).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from harness.model.cluster import ClusterState, Pod, Service
from harness.model.labels import CLUSTER_LABEL, K8S, NAMESPACE_LABEL, Label
from harness.model.traffic import Direction, EntityName, PodRef
from harness.model.verdict import Decision, RuleRef
from harness.policy import entities
from harness.policy.identities import IdentityTable, holds, node_labels
from harness.policy.l4 import Filter, MergeConflict, SelectorPolicy, build_filters
from harness.policy.options import Options
from harness.policy.prefix import parse_address
from harness.policy.rules import (
    ALLOW_ANY_EGRESS,
    ALLOW_ANY_INGRESS,
    ALLOW_LOCALHOST_INGRESS,
    CIDRSelector,
    LabelSelector,
    Operator,
    PeerSelector,
    Requirement,
    Rule,
    ServiceSelector,
)
from harness.policy.table import ALL_PORTS, DirectionTable, Entry
from harness.policy.validate import is_service_name

PortNames: TypeAlias = Mapping[tuple[str, int], int]
"""(name, protocol number) to port number."""

ENDPOINT_ENTITIES = (EntityName.HEALTH, EntityName.INIT, EntityName.INGRESS)
"""Entities that are Cilium endpoints themselves, so policies select them."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An endpoint that policy is enforced for. `name` is for people; `node` '' where it does not matter."""

    name: str
    position: int
    node: str
    ports: tuple[tuple[tuple[str, int], int], ...] = ()
    host: bool = False


class Subjects:
    """All endpoints of a cluster state under some rules, and their tables."""

    def __init__(self, state: ClusterState, identities: IdentityTable, rules: Sequence[Rule], options: Options) -> None:
        self.options = options
        self.identities = identities
        self.rules = tuple(_resolve_services(rule, state.services, options) for rule in sorted(rules, key=lambda rule: rule.order))
        self.pods: dict[PodRef, Subject] = {}
        self.entities: dict[EntityName, Subject] = {}
        self.hosts: dict[str, Subject] = {}
        self._state = state
        self._tables: dict[object, DirectionTable] = {}
        self._filters: dict[object, list[Filter] | str] = {}
        self._chosen: dict[object, tuple[int, ...]] = {}
        self._by_subject: dict[Subject, dict[Direction, DirectionTable]] = {}
        self._cluster_ports: dict[tuple[str, int], int] = {}
        self._identity_ports: dict[int, dict[tuple[str, int], int]] = {}
        self._masks = [0 if rule.node else identities.select(rule.subject).certain for rule in self.rules]
        self._add_endpoints()

    def _add_endpoints(self) -> None:
        for pod in self._state.pods:
            if pod.host_network:
                continue
            names = port_names(pod)
            position = self.identities.pods[pod.ref]
            mine = self._identity_ports.setdefault(position, {})
            for key, port in names.items():
                for known in (mine, self._cluster_ports):
                    # Two numbers for one name resolve to nothing (0).
                    known[key] = port if known.get(key, port) == port else 0
            if pod.cluster == self.options.cluster_name:
                self.pods[pod.ref] = Subject(str(pod.ref), position, pod.node, tuple(sorted(names.items())))
        for name in ENDPOINT_ENTITIES:
            self.entities[name] = Subject(str(name), self.identities.entities[name], "")
        if self.options.host_firewall:
            for node in sorted({*self._state.nodes, *(pod.node for pod in self._state.pods)}):
                self.hosts[node] = Subject(node, self.identities.entities[EntityName.HOST], node, host=True)

    def all(self) -> Iterable[Subject]:
        yield from self.pods.values()
        yield from self.entities.values()
        yield from self.hosts.values()

    def selected_by(self, rule: Rule, subject: Subject) -> bool:
        if rule.node or subject.host:
            return rule.node and subject.host and holds(rule.subject, node_labels(self._state.nodes.get(subject.node, {})))
        return bool(self.identities.select(rule.subject).certain >> subject.position & 1)

    def table(self, subject: Subject, direction: Direction) -> DirectionTable:
        """The table of an endpoint. An error in one direction is an error in both: Cilium computes both or none."""
        found = self._by_subject.get(subject)
        if found is None:
            found = {each: self._table(subject, each) for each in Direction}
            error = next((each.error for each in found.values() if each.error), "")
            if error:
                found = {each: replace(table, error=error, enforced=True, peers={}) for each, table in found.items()}
            self._by_subject[subject] = found
        return found[direction]

    def rules_for(self, subject: Subject, direction: Direction) -> tuple[int, ...]:
        """The places in `rules`, which is in Cilium's order, of those that select an endpoint."""
        at = (subject.node if subject.host else subject.position, direction)
        found = self._chosen.get(at)
        if found is None:
            found = self._chosen[at] = tuple(
                index
                for index, rule in enumerate(self.rules)
                if rule.direction is direction
                and (self._masks[index] >> subject.position & 1 if not subject.host else self.selected_by(rule, subject))
            )
        return found

    def _table(self, subject: Subject, direction: Direction) -> DirectionTable:
        key = len(self._tables)
        if self.options.enforcement == "never":
            return self._remember("never", DirectionTable(key, enforced=False, default=Decision.ALLOW))
        places = self.rules_for(subject, direction)
        always = self.options.enforcement == "always" or subject.position == self.identities.entities[EntityName.INIT]
        if not places and not always:
            return self._remember("open", DirectionTable(key, enforced=False, default=Decision.ALLOW))
        rules = [self.rules[place] for place in places]
        default_deny = always or any(rule.default_deny for rule in rules)
        chosen = (direction, places, default_deny, subject.host)
        filters = self._filters_for(chosen, rules, default_deny=default_deny)
        ports = self._port_names(subject, direction, filters)
        table = self._tables.get((chosen, ports))
        if table is not None:
            return table
        default = Decision.DEFAULT_DENY if default_deny else Decision.ALLOW
        selecting = tuple(dict.fromkeys(rule.ref.policy for rule in rules))
        if isinstance(filters, str):
            made = DirectionTable(key, enforced=True, default=default, selecting=selecting, error=filters)
        else:
            entries = [entry for each in filters for entry in self._entries(each, direction, dict(ports))]
            entries += self._implicit(direction, bool(rules), default_deny, subject.host)
            made = DirectionTable(key, enforced=True, default=default, entries=entries, selecting=selecting)
        return self._remember((chosen, ports), made)

    def _remember(self, key: object, table: DirectionTable) -> DirectionTable:
        return self._tables.setdefault(key, table)

    def _filters_for(self, key: object, rules: Iterable[Rule], *, default_deny: bool) -> list[Filter] | str:
        found = self._filters.get(key)
        if found is None:
            try:
                found = build_filters(rules, default_deny=default_deny)
            except MergeConflict as conflict:
                found = str(conflict)
            self._filters[key] = found
        return found

    def _port_names(self, subject: Subject, direction: Direction, filters: list[Filter] | str) -> tuple[tuple[tuple[str, int], int], ...]:
        """The endpoint's named ports, as far as its ingress filters use them: what tells its table from that of its peers."""
        if direction is Direction.EGRESS or isinstance(filters, str):
            return ()
        used = {(each.name, each.protocol) for each in filters if each.name}
        return tuple(item for item in subject.ports if item[0] in used)

    def _entries(self, each: Filter, direction: Direction, ports: PortNames) -> Iterable[Entry]:
        if not each.name:
            yield from self._at(each, *_range(each.port, each.end_port, self.options))
        elif direction is Direction.EGRESS and self.options.at_least(1, 20):
            yield from self._per_identity(each)
        else:
            known = ports if direction is Direction.INGRESS else self._cluster_ports
            number = known.get((each.name, each.protocol), 0)
            if number:
                yield from self._at(each, *_range(number, each.end_port, self.options))

    def _at(self, each: Filter, first: int, last: int, only: int = -1) -> Iterable[Entry]:
        for selector, policy in each.policies.items():
            selection = self.identities.select(selector)
            certain, maybe = selection.certain & only, selection.maybe & only
            if certain or maybe:
                wildcard = isinstance(selector, LabelSelector) and selector.is_wildcard
                yield Entry(each.protocol, first, last, certain, maybe, wildcard, each, policy)

    def _per_identity(self, each: Filter) -> Iterable[Entry]:
        """Since 1.20 an egress named port is resolved for each destination by itself; its endPort is ignored."""
        by_number: dict[int, int] = {}
        for position, names in self._identity_ports.items():
            number = names.get((each.name, each.protocol), 0)
            if number:
                by_number[number] = by_number.get(number, 0) | 1 << position
        for number, only in by_number.items():
            for entry in self._at(each, number, number, only):
                yield replace(entry, wildcard=False)

    def _implicit(self, direction: Direction, has_rules: bool, default_deny: bool, host: bool) -> Iterable[Entry]:
        if not default_deny:
            ref = ALLOW_ANY_INGRESS if direction is Direction.INGRESS else ALLOW_ANY_EGRESS
            yield self._allow(entities.ALL, ref)
        elif direction is Direction.INGRESS and not host and (has_rules or not self.options.at_least(1, 20)):
            yield self._allow(entities.HOST, ALLOW_LOCALHOST_INGRESS)

    def _allow(self, selector: LabelSelector, ref: RuleRef) -> Entry:
        certain = self.identities.select(selector).certain
        return Entry(0, 0, ALL_PORTS, certain, 0, selector.is_wildcard, None, SelectorPolicy(deny=False, rules=(ref,)))


def port_names(pod: Pod) -> dict[tuple[str, int], int]:
    """The pod's named ports, lower-cased. Of a name that it uses twice the last counts, whatever its protocol."""
    found: dict[str, tuple[int, int]] = {}
    for each in pod.ports:
        if each.name and is_service_name(each.name) and each.port:
            found[each.name.lower()] = (each.protocol.number, each.port)
    return {(name, protocol): port for name, (protocol, port) in found.items()}


def _range(port: int, end: int, options: Options) -> tuple[int, int]:
    if port == 0 and (end == 0 or options.at_least(1, 20)):
        return 0, ALL_PORTS
    return port, max(port, end)


def _resolve_services(rule: Rule, services: Iterable[Service], options: Options) -> Rule:
    """What toServices stands for: a service with a selector its pods, one without its backends' addresses."""
    if not rule.services or rule.peers is None:
        return rule
    peers: list[PeerSelector] = []
    for service in services:
        if not any(_service_matches(each, service) for each in rule.services):
            continue
        if service.selector:
            wanted = {**service.selector, NAMESPACE_LABEL: service.namespace}
            if options.default_local_cluster:
                wanted.setdefault(CLUSTER_LABEL, options.cluster_name)
            peers.append(LabelSelector(tuple(Requirement(K8S, key, Operator.EQUALS, (value,)) for key, value in sorted(wanted.items()))))
        else:
            peers += (CIDRSelector(parse_address(text)) for text in service.backends)
    return replace(rule, peers=(*rule.peers, *dict.fromkeys(peers)))


def _service_matches(selector: ServiceSelector, service: Service) -> bool:
    if selector.namespace and selector.namespace != service.namespace:
        return False
    if selector.labels is None:
        return selector.name == service.name
    return holds(selector.labels, frozenset(Label(K8S, key, value) for key, value in service.labels.items()))
