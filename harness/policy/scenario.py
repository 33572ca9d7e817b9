"""Scenarios of `harness predict --scenarios` as values: decoding of the input, encoding of the answer. Pure; the stream is elsewhere.

The format is fixed; unknown keys are ignored so that test vectors may carry expectations beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from msgspec import Struct

from harness.errors import HarnessError, ScenarioError
from harness.model.cluster import LOCAL_CLUSTER, CIDRGroup, ClusterState, ContainerPort, ExternalHost, Pod, Service, ServicePort
from harness.model.traffic import Direction, Entity, EntityName, External, Peer, PodRef, Protocol, Request, RequestKind, Traffic
from harness.model.verdict import Decision, DirectionVerdict, PolicyVerdict
from harness.policy.evaluate import Evaluator
from harness.policy.options import DEFAULT_CILIUM, OPTION_NAMES, Options
from harness.policy.parse import listed
from harness.policy.prefix import parse_address, parse_prefix
from harness.policy.repository import Repository
from harness.policy.schema import is_array
from harness.policy.table import DirectionTable

Object: TypeAlias = Mapping[str, Any]

_PROTOCOLS = {each.value.upper(): each for each in Protocol}
_NUMBERS = {each.value: each.number for each in Protocol}
_ENTITIES = {each.value: Entity(each) for each in EntityName}
_L7 = ("http", "dns", "sni")
_PLAIN_FLOW = ("src", "dst", "protocol", "port")
_NOT_APPLICABLE = Decision.NOT_APPLICABLE


class _End(Struct, frozen=True):
    """One end of flows where what it is does not depend on the other end."""

    egress: DirectionTable | None
    ingress: DirectionTable | None
    position: int


class Scenario:
    """A cluster, its policies, and flows to answer. The flows stay as they came: each is decoded when it is answered."""

    def __init__(self, name: Any, evaluator: Evaluator, flows: Sequence[Any]) -> None:
        self.id = name
        self.evaluator = evaluator
        self.flows = flows
        self._peers: dict[str, Peer] = {}
        self._ends: dict[str, _End] = {}
        self._independent = not evaluator.nodes_matter

    def answer(self, flow: Any) -> Mapping[str, str]:
        """The verdict of one flow. ScenarioError if it is malformed."""
        return self._quick(flow) or encode(self.evaluator.verdict(self.traffic(flow)), asked=_asks(flow))

    def _quick(self, flow: Any) -> Mapping[str, str] | None:
        """The same for a well-formed flow of the usual kind, of which there may be a hundred thousand; None for any other."""
        if not self._independent or type(flow) is not dict or len(flow) != len(_PLAIN_FLOW):
            return None
        try:
            source, destination, protocol, port = flow["src"], flow["dst"], _NUMBERS[flow["protocol"]], flow["port"]
        except (KeyError, TypeError):
            return None
        if type(port) is not int or not 0 <= port <= 65535:
            return None
        try:
            mine, other = self._ends[source], self._ends[destination]
        except (KeyError, TypeError):
            mine, other = self._end(_text(flow, "src", "flow")), self._end(_text(flow, "dst", "flow"))
        options = self.evaluator.options
        table = mine.egress
        egress = _NOT_APPLICABLE if table is None else table.decision(other.position, protocol, port, options)
        table = other.ingress
        ingress = _NOT_APPLICABLE if table is None else table.decision(mine.position, protocol, port, options)
        return _ENCODED[egress, ingress]

    def _end(self, text: str) -> _End:
        found = self._ends.get(text)
        if found is None:
            this = self._peer(text)
            subject = self.evaluator.subject(this, this)
            tables = self.evaluator.subjects
            found = self._ends[text] = _End(
                tables.table(subject, Direction.EGRESS) if subject else None,
                tables.table(subject, Direction.INGRESS) if subject else None,
                self.evaluator.position(this, ""),
            )
        return found

    def _peer(self, text: str) -> Peer:
        found = self._peers.get(text)
        if found is None:
            found = self._peers[text] = peer(text)
        return found

    def traffic(self, flow: Any) -> Traffic:
        if not isinstance(flow, Mapping):
            raise ScenarioError("a flow is an object with src, dst, protocol and port")
        protocol = _PROTOCOLS.get(_text(flow, "protocol", "flow").upper())
        if protocol is None:
            raise ScenarioError(f"protocol {flow['protocol']!r} is not known", hint=f"Use one of {', '.join(Protocol)}.")
        port = flow.get("port")
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
            raise ScenarioError(f"port {port!r} is not a number from 0 to 65535")
        return Traffic(self._peer(_text(flow, "src", "flow")), self._peer(_text(flow, "dst", "flow")), protocol, port, _request(flow))

    @property
    def policy_errors(self) -> dict[str, str]:
        return {str(ref): str(error) for ref, error in self.evaluator.repository.errors.items()}


def peer(text: str) -> Peer:
    """`ns/pod`, `world:IP` or an entity's name."""
    entity = _ENTITIES.get(text)
    if entity is not None:
        return entity
    if text.startswith("world:"):
        try:
            return External(text.removeprefix("world:"))
        except ValueError:
            raise ScenarioError(f"{text!r} does not hold an IP address") from None
    namespace, slash, name = text.partition("/")
    if not slash or not namespace or not name:
        raise ScenarioError(f"{text!r} is no end of a flow", hint=f"Use ns/pod, world:IP or one of {', '.join(_ENTITIES)}.")
    return PodRef(namespace, name)


def encode(verdict: PolicyVerdict, *, asked: bool = False) -> dict[str, str]:
    """The answer for one flow; `l7` only where it was asked for."""
    found = {"ingress": verdict.ingress.decision.value, "egress": verdict.egress.decision.value}
    if asked:
        found["l7"] = verdict.l7.value
    found["verdict"] = verdict.verdict.value
    return found


_ENCODED: Mapping[tuple[Decision, Decision], Mapping[str, str]] = {
    (egress, ingress): encode(PolicyVerdict(DirectionVerdict(egress), DirectionVerdict(ingress)))
    for egress in Decision
    for ingress in Decision
}


def decode_scenario(document: Any) -> Scenario:
    """A scenario from its JSON value. ScenarioError where it is malformed; refused policies are part of the answer instead."""
    if not isinstance(document, Mapping):
        raise ScenarioError("a scenario is a JSON object")
    options = _options(document)
    try:
        state = _state(document)
    except ValueError as error:
        raise ScenarioError(f"the cluster is malformed: {error}") from error
    flows = _list(document, "flows", "the scenario")
    policies = [each for item in _objects(document, "policies", "the scenario") for each in listed(item)]
    repository = Repository.empty(options).change(apply=policies)
    return Scenario(document.get("id"), Evaluator(state, repository), flows)


def run_scenario(document: Any) -> tuple[Mapping[str, Any], bool]:
    """The value to write for one scenario, and whether everything in it was well-formed."""
    try:
        scenario = decode_scenario(document)
    except HarnessError as error:
        return {"id": document.get("id") if isinstance(document, Mapping) else None, "error": one_line(error)}, False
    verdicts: list[Mapping[str, str]] = []
    clean = True
    for flow in scenario.flows:
        try:
            verdicts.append(scenario.answer(flow))
        except HarnessError as error:
            verdicts.append({"error": one_line(error)})
            clean = False
    return {"id": scenario.id, "policy_errors": scenario.policy_errors, "verdicts": verdicts}, clean


def one_line(error: HarnessError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _options(document: Object) -> Options:
    given = _mapping(document, "options", "the scenario")
    settings: dict[str, Any] = {}
    for name, value in given.items():
        if name == "cilium":
            continue
        if name == "names":
            settings["names_unknown"] = value == "unknown"
        elif name == "cidrMatchMode":
            settings["cidr_match_mode"] = frozenset([value] if isinstance(value, str) else _texts(given, name, "options"))
        elif name in OPTION_NAMES:
            if not isinstance(value, str if name == "clusterName" else bool):
                raise ScenarioError(f"option {name} cannot be {value!r}")
            settings[OPTION_NAMES[name]] = value
        else:
            known = ", ".join(sorted(["cilium", "names", "cidrMatchMode", *OPTION_NAMES]))
            raise ScenarioError(f"there is no option {name!r}", hint=f"There are {known}.")
    enforcement = document.get("enforcement") or "default"
    if not isinstance(enforcement, str):
        raise ScenarioError("enforcement is text")
    return Options.of(str(given.get("cilium") or DEFAULT_CILIUM), enforcement=enforcement, **settings)


def _state(document: Object) -> ClusterState:
    where = "the scenario"
    return ClusterState(
        namespaces={name: _labels(labels, f"namespace {name}") for name, labels in _mapping(document, "namespaces", where).items()},
        pods=tuple(map(_pod, _objects(document, "pods", where))),
        externals=tuple(map(_external, _objects(document, "externals", where))),
        services=tuple(map(_service, _objects(document, "services", where))),
        cidr_groups=tuple(map(_cidr_group, _objects(document, "cidrGroups", where))),
        nodes={name: _labels(labels, f"node {name}") for name, labels in _mapping(document, "nodes", where).items()},
    )


def _external(item: Object) -> ExternalHost:
    address = _text(item, "ip", "external")
    parse_address(address)
    return ExternalHost(str(item.get("name") or ""), address, kube_apiserver=bool(item.get("kubeAPIServer")))


def _cidr_group(item: Object) -> CIDRGroup:
    name = _text(item, "name", "CIDR group")
    cidrs = _texts(item, "cidrs", f"CIDR group {name}")
    for each in cidrs:
        parse_prefix(each)
    return CIDRGroup(name, cidrs, _labels(item.get("labels"), f"CIDR group {name}"))


def _pod(item: Object) -> Pod:
    ref = PodRef(_text(item, "namespace", "pod"), _text(item, "name", "pod"))
    account = item.get("serviceAccount")
    if account is not None and not isinstance(account, str):
        raise ScenarioError(f"pod {ref}: serviceAccount is text or null")
    return Pod(
        ref,
        _labels(item.get("labels"), f"pod {ref}"),
        str(item.get("node") or ""),
        account,
        tuple(_container_port(each, f"pod {ref}") for each in _objects(item, "ports", f"pod {ref}")),
        str(item.get("cluster") or LOCAL_CLUSTER),
        bool(item.get("hostNetwork")),
    )


def _container_port(item: Object, where: str) -> ContainerPort:
    port, name = item.get("port"), item.get("name")
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= 65535:
        raise ScenarioError(f"{where}: port {port!r} is not a number from 1 to 65535")
    return ContainerPort(port, _protocol(item, where), None if name is None else str(name))


def _protocol(item: Object, where: str) -> Protocol:
    text = item.get("protocol") or "TCP"
    protocol = _PROTOCOLS.get(str(text).upper())
    if protocol is None:
        raise ScenarioError(f"{where}: protocol {text!r} is not known")
    return protocol


def _service(item: Object) -> Service:
    name = _text(item, "name", "service")
    ports = []
    for each in _objects(item, "ports", f"service {name}"):
        port = each.get("port") or 0
        ports.append(ServicePort(port, each.get("targetPort") or port, _protocol(each, f"service {name}"), each.get("name")))
    backends = _texts(item, "backends", f"service {name}")
    for text in backends:
        parse_address(text)
    return Service(
        _text(item, "namespace", "service"),
        name,
        _labels(item.get("selector"), f"service {name}") or None,
        tuple(ports),
        _labels(item.get("labels"), f"service {name}"),
        backends=backends,
    )


def _asks(flow: Any) -> bool:
    return isinstance(flow, Mapping) and any(flow.get(kind) is not None for kind in _L7)


def _request(flow: Object) -> Request | None:
    kinds = [kind for kind in _L7 if flow.get(kind) is not None]
    if not kinds:
        return None
    if len(kinds) > 1:
        raise ScenarioError(f"a flow carries one of http, dns and sni, not {' and '.join(kinds)}")
    value = flow[kinds[0]]
    if kinds[0] != "http":
        if not isinstance(value, str):
            raise ScenarioError(f"{kinds[0]} is a name")
        return Request(RequestKind.LOOKUP if kinds[0] == "dns" else RequestKind.TLS, name=value)
    if not isinstance(value, Mapping):
        raise ScenarioError("http is an object with method, path, host and headers")
    return Request(
        RequestKind.HTTP,
        method=str(value.get("method") or "GET"),
        path=str(value.get("path") or "/"),
        host=str(value.get("host") or ""),
        headers=_headers(value.get("headers") or {}),
    )


def _headers(value: Any) -> tuple[tuple[str, str], ...]:
    """An object of names to values (or lists of values), or a list of pairs."""
    if isinstance(value, Mapping):
        pairs: Iterable[Any] = ((name, each) for name, found in value.items() for each in (found if is_array(found) else (found,)))
    elif is_array(value) and all(is_array(each) and len(each) == 2 for each in value):
        pairs = value
    else:
        raise ScenarioError("headers is an object of names to values")
    return tuple((str(name), str(each)) for name, each in pairs)


def _text(item: Object, key: str, where: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value:
        raise ScenarioError(f"{where}: {key} must be text, not {value!r}")
    return value


def _list(item: Object, key: str, where: str) -> Sequence[Any]:
    value = item.get(key)
    if value is None:
        return ()
    if not is_array(value):
        raise ScenarioError(f"{where}: {key} must be a list")
    found: Sequence[Any] = value
    return found


def _texts(item: Object, key: str, where: str) -> tuple[str, ...]:
    found = _list(item, key, where)
    if not all(isinstance(each, str) for each in found):
        raise ScenarioError(f"{where}: {key} must be a list of texts")
    return tuple(found)


def _mapping(item: Object, key: str, where: str) -> Object:
    value = item.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ScenarioError(f"{where}: {key} must be an object")
    return value


def _objects(item: Object, key: str, where: str) -> Sequence[Object]:
    found = _list(item, key, where)
    for each in found:
        if not isinstance(each, Mapping):
            raise ScenarioError(f"{where}: {key} must be a list of objects")
    return found


def _labels(value: Any, where: str) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and isinstance(each, str) for key, each in value.items()):
        raise ScenarioError(f"{where}: labels must be text to text")
    return dict(value)
