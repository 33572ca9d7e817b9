"""What keeps a rule from matching one unit of traffic: each requirement that fails, in words. It decides nothing: the evaluator does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from harness.model.labels import ANY, CLUSTER_LABEL, K8S, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, RESERVED, SERVICE_ACCOUNT_LABEL
from harness.model.traffic import Protocol, Request, RequestKind, Traffic
from harness.model.verdict import L7Decision
from harness.policy.entities import ALL
from harness.policy.evaluate import Evaluator
from harness.policy.l4 import build_filters
from harness.policy.l7 import Applicable, answer, http_answer
from harness.policy.rules import (
    CIDRGroupSelector,
    CIDRSelector,
    FQDNSelector,
    HTTPRule,
    LabelSelector,
    Operator,
    Parser,
    PeerSelector,
    PortProtocol,
    PortRule,
    Requirement,
    Rule,
)
from harness.policy.subjects import Choice
from harness.policy.table import Entry


class MissKind(StrEnum):
    """Which requirement failed."""

    LABEL = "label"
    NAMESPACE = "namespace"
    PEER = "peer"
    """Another kind of peer is wanted, or nobody is."""
    PORT = "port"
    PROTOCOL = "protocol"
    PATH = "path"
    METHOD = "method"
    HOST = "host"
    HEADER = "header"
    NAME = "name"
    """A DNS name or a TLS server name."""
    REQUEST = "request"
    """Another kind of request is wanted."""


class Miss(Struct, frozen=True):
    """One requirement that fails; `text` is for people, as in `needs app=web, and shop/db has app=db`."""

    kind: MissKind
    text: str


class Seen(Struct, frozen=True):
    """An identity as selectors see it, and what people call it."""

    name: str
    position: int


class Misses:
    """Tells the misses of rules that select an endpoint, in one direction, as its table is made (`choice`)."""

    def __init__(self, evaluator: Evaluator, choice: Choice, peer: Seen, traffic: Traffic) -> None:
        self._evaluator = evaluator
        self._choice = choice
        self._peer = peer
        self._traffic = traffic

    def of(self, rule: Rule) -> tuple[Miss, ...]:
        """What keeps a rule from applying; empty if it applies."""
        return (*self.of_peer(rule), *self._of_ports(rule))

    def of_peer(self, rule: Rule) -> tuple[Miss, ...]:
        """Why the peer is none of those that the rule names: of its selectors, the one that comes closest."""
        if rule.peers is None:
            return (Miss(MissKind.PEER, "it selects nobody: one of its lists of peers is empty"),)
        if not rule.peers:
            return () if rule.ports else (Miss(MissKind.PEER, "it only sets default deny: it names neither peers nor ports"),)
        return min((of_selector(self._evaluator, each, self._peer) for each in rule.peers), key=len)

    def _of_ports(self, rule: Rule) -> tuple[Miss, ...]:
        """Why port, protocol or request are not what the rule names: of its port rules, the one that comes closest."""
        if not rule.ports:
            return ()
        return min((self._of_port_rule(rule, each) for each in rule.ports), key=len)

    def _of_port_rule(self, rule: Rule, ports: PortRule) -> tuple[Miss, ...]:
        if not ports.ports:
            return (Miss(MissKind.PORT, "it names no port"),)
        return min((self._of_port(rule, ports, each) for each in ports.ports), key=len)

    def _of_port(self, rule: Rule, ports: PortRule, port: PortProtocol) -> tuple[Miss, ...]:
        traffic = self._traffic
        entries = self._entries(rule, replace(ports, ports=(port,)))
        covering = [each for each in entries if each.covers(traffic.protocol.number, traffic.port)]
        found = []
        if not covering:
            protocol = port.protocol
            if protocol is not None and protocol is not traffic.protocol:
                found.append(Miss(MissKind.PROTOCOL, f"needs {protocol}, and this is {traffic.protocol}"))
            elif protocol is None and not traffic.protocol.has_ports:
                found.append(Miss(MissKind.PROTOCOL, f"needs TCP, UDP or SCTP, and this is {traffic.protocol}"))
            if not any(each.first <= traffic.port <= each.last for each in entries):
                found.append(Miss(MissKind.PORT, self._wanted_port(port, entries)))
        return (*found, *(self._of_request(covering or entries, ports) if not rule.deny else ()))

    def _entries(self, rule: Rule, ports: PortRule) -> list[Entry]:
        """The entries for the peer, if it were among the rule's."""
        filters = build_filters((replace(rule, peers=(ALL,), ports=(ports,)),), default_deny=self._choice.default_deny)
        bit = 1 << self._peer.position
        return [each for each in self._evaluator.subjects.entries(filters, self._choice) if (each.certain | each.maybe) & bit]

    def _wanted_port(self, port: PortProtocol, entries: Sequence[Entry]) -> str:
        noun = "port" if self._traffic.protocol.has_ports else "type"
        if port.name and not entries:
            return f"needs the port named {port.name}, and nobody here has one of that name"
        wanted = port.name or (f"{port.port}-{port.end_port}" if port.end_port > port.port else str(port.port))
        resolved = f" ({entries[0].first})" if port.name else ""
        return f"needs {noun} {wanted}{resolved}, and this is {self._traffic.port}"

    def _of_request(self, entries: Sequence[Entry], ports: PortRule) -> tuple[Miss, ...]:
        request = self._traffic.request
        if request is None or ports.parser is Parser.NONE:
            return ()
        for each in entries:
            if answer((Applicable(each.filter, each.policy),), request).decision is not L7Decision.DENY:
                return ()
        if ports.http and request.kind in (RequestKind.HTTP, RequestKind.GRPC):
            return min((tuple(of_http(each, request)) for each in ports.http), key=len) or (_wanted_request(ports, request),)
        return (_wanted_request(ports, request),)


def _wanted_request(ports: PortRule, request: Request) -> Miss:
    if ports.dns and request.kind is RequestKind.LOOKUP:
        names = ", ".join(each.match_name or each.match_pattern for each in ports.dns)
        return Miss(MissKind.NAME, f"needs a name like {names}, and this is {request.name}")
    if ports.server_names and request.kind is RequestKind.TLS:
        return Miss(MissKind.NAME, f"needs a server name like {', '.join(ports.server_names)}, and this is {request.name}")
    wanted = "a DNS lookup" if ports.dns else "an HTTP request" if ports.http else "TLS with a server name"
    return Miss(MissKind.REQUEST, f"needs {wanted}, and this is {request}")


def of_http(rule: HTTPRule, request: Request) -> Iterator[Miss]:
    """Which fields of an HTTP rule a request does not satisfy, each asked by itself."""
    method = request.method or ("POST" if request.kind is RequestKind.GRPC else "GET")
    fields = (
        (MissKind.METHOD, HTTPRule(method=rule.method), rule.method, method),
        (MissKind.PATH, HTTPRule(path=rule.path), rule.path, request.path or "/"),
        (MissKind.HOST, HTTPRule(host=rule.host), rule.host, request.host),
    )
    for kind, alone, wanted, found in fields:
        if wanted and http_answer((alone,), request).decision is L7Decision.DENY:
            yield Miss(kind, f"needs {kind.value} {wanted}, and this is {found}")
    for header in rule.headers:
        if http_answer((HTTPRule(headers=(header,)),), request).decision is L7Decision.DENY:
            yield Miss(MissKind.HEADER, f"needs header {header} (as written: no pattern)")
    for match in rule.header_matches:
        if http_answer((HTTPRule(header_matches=(match,)),), request).decision is L7Decision.DENY:
            yield Miss(MissKind.HEADER, f"needs header {match.name}{f' with value {match.value}' if match.value else ''}")


def of_selector(evaluator: Evaluator, selector: PeerSelector, seen: Seen) -> tuple[Miss, ...]:
    """Why a selector does not select an identity; empty if it does, or if it may."""
    selection = evaluator.identities.select(selector)
    if (selection.certain | selection.maybe) >> seen.position & 1:
        return ()
    if isinstance(selector, LabelSelector):
        return tuple(_of_requirements(evaluator, selector.requirements, seen))
    if not evaluator.identities.world >> seen.position & 1 and isinstance(selector, CIDRSelector | CIDRGroupSelector | FQDNSelector):
        noun = "names" if isinstance(selector, FQDNSelector) else "CIDRs"
        return (Miss(MissKind.PEER, f"needs {selector}, and {noun} are for what is outside the cluster: {seen.name} is inside"),)
    if isinstance(selector, FQDNSelector):
        return (Miss(MissKind.NAME, f"needs an address that DNS taught for {selector}; none is known for {seen.name}"),)
    return (Miss(MissKind.PEER, f"needs {selector}, and {seen.name} is not in it"),)


def _of_requirements(evaluator: Evaluator, requirements: Iterable[Requirement], seen: Seen) -> Iterator[Miss]:
    labels = evaluator.identities.identities[seen.position].labels
    outside = not any(each.source == K8S for each in labels)
    failing = [each for each in requirements if not evaluator.identities.satisfying(each) >> seen.position & 1]
    for each in failing:
        if outside and each.key in (NAMESPACE_LABEL, CLUSTER_LABEL) and len(failing) > 1:
            continue  # who has no labels at all misses the others too
        kind = MissKind.NAMESPACE if each.key == NAMESPACE_LABEL else MissKind.PEER if each.source == RESERVED else MissKind.LABEL
        values = sorted(label.value for label in labels if label.key == each.key and each.source in (ANY, label.source))
        yield Miss(kind, f"needs {shown(each)}, and {seen.name} {_has(each, values, outside=outside)}")


def _has(requirement: Requirement, values: Sequence[str], *, outside: bool) -> str:
    if requirement.source == RESERVED:
        return "is not" if requirement.operator is not Operator.DOES_NOT_EXIST else "is"
    if values:
        name = _short(requirement.key)
        return f"is in {values[0]}" if requirement.key == NAMESPACE_LABEL else f"has {name}={values[0]}"
    return "is no pod" if outside else f"has no label {_short(requirement.key)}"


def shown(requirement: Requirement) -> str:
    """A requirement in people's words: `namespace shop`, `entity host`, `app=web`."""
    if requirement.source == RESERVED and requirement.operator in (Operator.EQUALS, Operator.EXISTS):
        return f"entity {requirement.key}"
    if requirement.key == NAMESPACE_LABEL and requirement.operator is Operator.EQUALS:
        return f"namespace {requirement.values[0]}"
    if requirement.key == NAMESPACE_LABEL and requirement.operator is Operator.EXISTS:
        return "a pod (of any namespace)"
    return str(replace(requirement, key=_short(requirement.key)))


def _short(key: str) -> str:
    known = {NAMESPACE_LABEL: "namespace", CLUSTER_LABEL: "cluster", SERVICE_ACCOUNT_LABEL: "service account"}
    if key.startswith(NAMESPACE_LABELS_PREFIX):
        return f"namespace label {key.removeprefix(NAMESPACE_LABELS_PREFIX)}"
    return known.get(key, key)


def protocol_text(protocol: Protocol, port: int) -> str:
    """`TCP 8080`, `ICMP type 8`."""
    return f"{protocol} {port}" if protocol.has_ports else f"{protocol} type {port}"
