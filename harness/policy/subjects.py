"""The endpoints that policies select, and the table of decisions of each: rules are chosen, merged into filters and made entries.

Endpoints under the same rules share one table. Sources: pkg/policy/repository.go (which rules, default deny, implicit rules),
pkg/policy/l4.go (toMapState: ports, ranges, named ports).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from harness.model.cluster import ClusterState, ContainerPort, Pod, Service
from harness.model.labels import CLUSTER_LABEL, K8S, NAMESPACE_LABEL, Label
from harness.model.traffic import Direction, EntityName, PodRef
from harness.model.verdict import Decision, RuleRef
from harness.policy import entities
from harness.policy.identities import IdentityTable, bits, holds, node_labels
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


class Subject(Struct, frozen=True):
    """An endpoint that policy is enforced for. `name` is for people; `node` '' where it does not matter."""

    name: str
    position: int
    node: str
    ports: tuple[tuple[tuple[str, int], int], ...] = ()
    host: bool = False


class Choice(Struct, frozen=True):
    """What one table is made of: the places of the rules that select the endpoint, and the named ports of its own that they use."""

    direction: Direction
    places: tuple[int, ...]
    default_deny: bool
    host: bool
    ports: tuple[tuple[tuple[str, int], int], ...] = ()

    @property
    def default(self) -> Decision:
        """What is decided where no entry matches."""
        return Decision.DEFAULT_DENY if self.default_deny else Decision.ALLOW


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
        self._tables: dict[Choice | None, DirectionTable] = {}
        self._filters: dict[Choice, list[Filter] | str] = {}
        self._host_rules: dict[tuple[str, Direction], tuple[int, ...]] = {}
        self._by_subject: dict[Subject, dict[Direction, DirectionTable]] = {}
        self._cluster_ports: dict[tuple[str, int], int] = {}
        self._identity_ports: dict[int, dict[tuple[str, int], int]] = {}
        self.requiring = any(rule.requires for rule in self.rules)
        """Whether any rule narrows what others say."""
        self.names_used = [frozenset(port.name for each in rule.ports for port in each.ports if port.name) for rule in self.rules]
        self._selecting = self._by_position()
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
                self.pods[pod.ref] = Subject(str(pod.ref), position, pod.node, tuple(names.items()))
        for name in ENDPOINT_ENTITIES:
            self.entities[name] = Subject(str(name), self.identities.entities[name], "")
        if self.options.host_firewall:
            for node in sorted({*self._state.nodes, *(pod.node for pod in self._state.pods)}):
                self.hosts[node] = Subject(node, self.identities.entities[EntityName.HOST], node, host=True)

    def _by_position(self) -> Mapping[Direction, Mapping[int, tuple[int, ...]]]:
        """For each identity the places of the rules that select it."""
        found: dict[Direction, dict[int, list[int]]] = {each: {} for each in Direction}
        for place, rule in enumerate(self.rules):
            if not rule.node:
                mine = found[rule.direction]
                for position in bits(self.identities.select(rule.subject).certain & self.identities.endpoints):
                    mine.setdefault(position, []).append(place)
        return {each: {position: tuple(places) for position, places in mine.items()} for each, mine in found.items()}

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
        if not subject.host:
            return self._selecting[direction].get(subject.position, ())
        at = (subject.node, direction)
        found = self._host_rules.get(at)
        if found is None:
            found = self._host_rules[at] = tuple(
                index for index, rule in enumerate(self.rules) if rule.direction is direction and self.selected_by(rule, subject)
            )
        return found

    def rules_of(self, choice: Choice) -> list[Rule]:
        """The rules that a table is made of. What one of them requires (fromRequires, toRequires) narrows the endpoints that all of the
        same kind, allow or deny, let in: Cilium 1.18, `rule.resolveIngressPolicy` and `GetSourceEndpointSelectorsWithRequirements`."""
        rules = [self.rules[place] for place in choice.places]
        if not self.requiring:
            return rules
        required = {deny: tuple(each for rule in rules if rule.deny is deny for each in rule.requires) for deny in (False, True)}
        return [_narrowed(rule, required[rule.deny]) for rule in rules]

    def choice(self, subject: Subject, direction: Direction) -> Choice | None:
        """What the endpoint's table in a direction is made of; None where nothing is enforced. Equal choices have one table."""
        if self.options.enforcement == "never":
            return None
        places = self.rules_for(subject, direction)
        always = self.options.enforcement == "always" or subject.position == self.identities.entities[EntityName.INIT]
        if not places and not always:
            return None
        default_deny = always or any(self.rules[place].default_deny for place in places)
        return Choice(direction, places, default_deny, subject.host, self._own_names(subject, direction, places))

    def _own_names(self, subject: Subject, direction: Direction, places: Iterable[int]) -> tuple[tuple[tuple[str, int], int], ...]:
        """The endpoint's named ports, as far as its ingress rules use them: what tells its table from that of its peers."""
        if direction is Direction.EGRESS or not subject.ports:
            return ()
        used = frozenset().union(*(self.names_used[place] for place in places))
        return tuple(item for item in subject.ports if item[0][0] in used)

    def _table(self, subject: Subject, direction: Direction) -> DirectionTable:
        choice = self.choice(subject, direction)
        table = self._tables.get(choice)
        if table is None:
            table = self._tables[choice] = self._made(len(self._tables), choice)
        return table

    def _made(self, key: int, choice: Choice | None) -> DirectionTable:
        if choice is None:
            return DirectionTable(key, enforced=False, default=Decision.ALLOW)
        rules = self.rules_of(choice)
        selecting = tuple(dict.fromkeys(rule.ref.policy for rule in rules))
        filters = self._filters_for(choice)
        if isinstance(filters, str):
            return DirectionTable(key, enforced=True, default=choice.default, selecting=selecting, error=filters)
        entries = [*self.entries(filters, choice), *self.implicit(choice)]
        return DirectionTable(key, enforced=True, default=choice.default, entries=entries, selecting=selecting)

    def _filters_for(self, choice: Choice) -> list[Filter] | str:
        key = replace(choice, ports=())
        found = self._filters.get(key)
        if found is None:
            try:
                found = build_filters(self.rules_of(choice), default_deny=choice.default_deny)
            except MergeConflict as conflict:
                found = str(conflict)
            self._filters[key] = found
        return found

    def entries(self, filters: Iterable[Filter], choice: Choice) -> list[Entry]:
        """What filters come to for the endpoints of a choice: ports resolved, selectors replaced by identities."""
        ports = dict(choice.ports)
        return [entry for each in filters for entry in self._entries(each, choice.direction, ports)]

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

    def implicit(self, choice: Choice) -> Iterable[Entry]:
        """What Cilium adds to the rules of a choice."""
        if not choice.default_deny:
            ref = ALLOW_ANY_INGRESS if choice.direction is Direction.INGRESS else ALLOW_ANY_EGRESS
            yield self._allow(entities.ALL, ref)
        elif choice.direction is Direction.INGRESS and not choice.host and (choice.places or not self.options.at_least(1, 20)):
            yield self._allow(entities.HOST, ALLOW_LOCALHOST_INGRESS)

    def _allow(self, selector: LabelSelector, ref: RuleRef) -> Entry:
        certain = self.identities.select(selector).certain
        return Entry(0, 0, ALL_PORTS, certain, 0, selector.is_wildcard, None, SelectorPolicy(deny=False, rules=(ref,)))


def port_names(pod: Pod) -> Mapping[tuple[str, int], int]:
    """The pod's named ports, lower-cased. Of a name that it uses twice the last counts, whatever its protocol."""
    return _port_names(pod.ports)


@lru_cache(maxsize=1024)
def _port_names(ports: tuple[ContainerPort, ...]) -> Mapping[tuple[str, int], int]:
    """Cached: a cluster's pods are many, the lists of ports that they declare are few."""
    found: dict[str, tuple[int, int]] = {}
    for each in ports:
        if each.name and is_service_name(each.name) and each.port:
            found[each.name.lower()] = (each.protocol.number, each.port)
    return {(name, protocol): port for name, (protocol, port) in sorted(found.items())}


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


def _narrowed(rule: Rule, required: tuple[Requirement, ...]) -> Rule:
    if not required or not rule.endpoints or rule.peers is None:
        return rule
    selectors = (each for each in rule.peers if isinstance(each, LabelSelector))
    return replace(rule, peers=tuple(LabelSelector(each.requirements + required) for each in selectors))


def _service_matches(selector: ServiceSelector, service: Service) -> bool:
    if selector.namespace and selector.namespace != service.namespace:
        return False
    if selector.labels is None:
        return selector.name == service.name
    return holds(selector.labels, frozenset(Label(K8S, key, value) for key, value in service.labels.items()))
