"""What each field of a flow filter asks of a flow, as Cilium's pkg/hubble/filters. Pure: given the values, one predicate on a message.

Every function here takes the values of one field, which are alternatives, or what to read and then the values. Raises FilterError for
values that Hubble refuses.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import re2

from harness.hubble.labelselector import parse_selector
from harness.hubble.proto import flow_pb2

Predicate: TypeAlias = Callable[[flow_pb2.Flow], bool]

DEFAULT_CLUSTER = "default"
_DROPPED = 2


class FilterError(ValueError):
    """A filter that the server refuses; answered to the client as INVALID_ARGUMENT."""


def one_of(read: Callable[[flow_pb2.Flow], Any]) -> Callable[[Iterable[Any]], Predicate]:
    def build(values: Iterable[Any]) -> Predicate:
        wanted = frozenset(values)
        return lambda flow: read(flow) in wanted

    return build


# Addresses and ports


def addresses(read: Callable[[flow_pb2.Flow], str]) -> Callable[[Iterable[str]], Predicate]:
    def build(values: Iterable[str]) -> Predicate:
        exact: set[str] = set()
        networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for value in values:
            try:
                if "/" in value:
                    networks.append(ipaddress.ip_network(value, strict=False))
                else:
                    ipaddress.ip_address(value)
                    exact.add(value)
            except ValueError as error:
                raise FilterError(f"invalid {'CIDR' if '/' in value else 'IP address'} in filter: {value!r}") from error

        def matches(flow: flow_pb2.Flow) -> bool:
            text = read(flow)
            if not text:
                return False
            if text in exact:
                return True
            if not networks:
                return False
            try:
                address = ipaddress.ip_address(text)
            except ValueError:
                return False
            return any(address in network for network in networks)

        return matches

    return build


def _ports_of(flow: flow_pb2.Flow) -> Any:
    kind = flow.l4.WhichOneof("protocol")
    return getattr(flow.l4, kind) if kind in {"TCP", "UDP", "SCTP"} else None


def ports(name: str) -> Callable[[Iterable[str]], Predicate]:
    def build(values: Iterable[str]) -> Predicate:
        wanted: set[int] = set()
        for value in values:
            if not re.fullmatch(r"[0-9]+", value) or int(value) > 65535:
                raise FilterError(f"invalid {name.replace('_', ' ')} filter: invalid port {value!r}")
            wanted.add(int(value))

        def matches(flow: flow_pb2.Flow) -> bool:
            part = _ports_of(flow)
            return part is not None and getattr(part, name) in wanted

        return matches

    return build


_L4_NAMES = {
    "icmp": ("ICMPv4", "ICMPv6"),
    "icmpv4": ("ICMPv4",),
    "icmpv6": ("ICMPv6",),
    "tcp": ("TCP",),
    "udp": ("UDP",),
    "sctp": ("SCTP",),
    "vrrp": ("VRRP",),
    "igmp": ("IGMP",),
}
_L7_NAMES = ("dns", "http")


def protocols(values: Iterable[str]) -> Predicate:
    layer4: set[str] = set()
    layer7: set[str] = set()
    for value in values:
        name = value.lower()
        if name in _L4_NAMES:
            layer4.update(_L4_NAMES[name])
        elif name in _L7_NAMES:
            layer7.add(name)
        else:
            raise FilterError(f"invalid protocol filter: unknown protocol: {value!r}")
    return lambda flow: flow.l4.WhichOneof("protocol") in layer4 or flow.l7.WhichOneof("record") in layer7


_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "NS")


def tcp_flags(values: Iterable[flow_pb2.TCPFlags]) -> Predicate:
    wanted = [tuple(flag for flag in _FLAGS if getattr(value, flag)) for value in values]

    def matches(flow: flow_pb2.Flow) -> bool:
        if flow.l4.WhichOneof("protocol") != "TCP" or not flow.l4.TCP.HasField("flags"):
            return False
        have = flow.l4.TCP.flags
        return any(all(getattr(have, flag) for flag in flags) for flags in wanted)

    return matches


# Kubernetes names and labels


def named(what: str, read: Callable[[flow_pb2.Flow], tuple[str, str]]) -> Callable[[Iterable[str]], Predicate]:
    def build(values: Iterable[str]) -> Predicate:
        wanted: list[tuple[str, str]] = []
        for value in values:
            if not value:
                raise FilterError(f"invalid {what} filter: name must not be empty")
            parts = value.split("/")
            wanted.append((parts[0], parts[1]) if len(parts) > 1 else ("default", parts[0]))

        def matches(flow: flow_pb2.Flow) -> bool:
            namespace, name = read(flow)
            if not namespace and not name:
                return False
            return any((not ns or ns == namespace) and name.startswith(prefix) for ns, prefix in wanted)

        return matches

    return build


def labels(what: str, read: Callable[[flow_pb2.Flow], Iterable[str]]) -> Callable[[Iterable[str]], Predicate]:
    def build(values: Iterable[str]) -> Predicate:
        try:
            selectors = [parse_selector(value) for value in values]
        except ValueError as error:
            raise FilterError(f"invalid {what} label filter: {error}") from error
        return lambda flow: any(selector(read(flow)) for selector in selectors)

    return build


def workloads(read: Callable[[flow_pb2.Flow], flow_pb2.Endpoint]) -> Callable[[Iterable[flow_pb2.Workload]], Predicate]:
    def build(values: Iterable[flow_pb2.Workload]) -> Predicate:
        wanted = [(value.kind, value.name) for value in values]
        return lambda flow: any(
            (not kind or kind == workload.kind) and (not name or name == workload.name)
            for workload in read(flow).workloads
            for kind, name in wanted
        )

    return build


def clusters(read: Callable[[flow_pb2.Flow], str]) -> Callable[[Iterable[str]], Predicate]:
    def build(values: Iterable[str]) -> Predicate:
        wanted = frozenset(values)
        if "" in wanted:
            raise FilterError("invalid filter, name must not be empty")
        return lambda flow: read(flow) in wanted

    return build


# Names of hosts and nodes

_ANY_FQDN = r"(?:[-0-9_a-z]+(?:\.[-0-9_a-z]+)*)"


def _fqdn_expression(pattern: str) -> str:
    pattern = pattern.strip().removesuffix(".").lower()
    if not pattern:
        raise FilterError("empty pattern")
    if pattern.endswith("."):
        raise FilterError("multiple trailing dots in pattern")
    out = []
    for character in pattern:
        if character == ".":
            out.append(r"\.")
        elif character == "*":
            out.append("[-.0-9a-z]*")
        elif re.fullmatch(r"[-_0-9a-z]", character):
            out.append(character)
        else:
            raise FilterError(f"{character!r}: invalid rune in pattern")
    return "".join(out)


def _node_expression(pattern: str) -> str:
    if not pattern:
        raise FilterError("empty pattern")
    parts = pattern.split("/")
    if len(parts) > 2:
        raise FilterError("too many slashes in pattern")
    cluster, node = parts if len(parts) == 2 else ("", parts[0])
    return f"{_fqdn_expression(cluster) if cluster else _ANY_FQDN}/{_fqdn_expression(node) if node else _ANY_FQDN}"


def fqdns(read: Callable[[flow_pb2.Flow], Iterable[str]]) -> Callable[[Iterable[str]], Predicate]:
    def build(values: Iterable[str]) -> Predicate:
        expression = re.compile("|".join(map(_fqdn_expression, values)))
        return lambda flow: any(expression.fullmatch(name) for name in read(flow))

    return build


def node_names(values: Iterable[str]) -> Predicate:
    expression = re.compile("|".join(map(_node_expression, values)))

    def matches(flow: flow_pb2.Flow) -> bool:
        name = flow.node_name
        if not name:
            return False
        return expression.fullmatch(name if "/" in name else f"{DEFAULT_CLUSTER}/{name}") is not None

    return matches


# Layer 7


def _expressions(what: str, values: Iterable[str]) -> list[Any]:
    out = []
    for value in values:
        try:
            out.append(re2.compile(value))
        except re2.error as error:
            raise FilterError(f"invalid {what} filter: {value}: {error}") from error
    return out


def dns_queries(values: Iterable[str]) -> Predicate:
    expressions = _expressions("DNS query", values)
    return lambda flow: flow.l7.HasField("dns") and any(one.search(flow.l7.dns.query) for one in expressions)


def status_codes(values: Iterable[str]) -> Predicate:
    full: set[str] = set()
    prefixes: list[str] = []
    for value in values:
        if re.fullmatch(r"[1-5][0-9]{2}", value):
            full.add(value)
        elif re.fullmatch(r"[1-5][0-9]?\+", value):
            prefixes.append(value.removesuffix("+"))
        else:
            raise FilterError(f"invalid http status code filter: invalid status code prefix: {value!r}")

    def matches(flow: flow_pb2.Flow) -> bool:
        if not flow.l7.HasField("http") or not flow.l7.http.code:
            return False
        code = f"{flow.l7.http.code:03d}"
        return code in full or code.startswith(tuple(prefixes))

    return matches


def methods(values: Iterable[str]) -> Predicate:
    wanted = frozenset(value.lower() for value in values)
    return lambda flow: flow.l7.HasField("http") and bool(flow.l7.http.method) and flow.l7.http.method.lower() in wanted


def urls(values: Iterable[str]) -> Predicate:
    expressions = _expressions("http url", values)
    return lambda flow: flow.l7.HasField("http") and bool(flow.l7.http.url) and any(one.search(flow.l7.http.url) for one in expressions)


def paths(values: Iterable[str]) -> Predicate:
    expressions = _expressions("http path", values)

    def matches(flow: flow_pb2.Flow) -> bool:
        url = flow.l7.http.url if flow.l7.HasField("http") else ""
        # Go's ParseRequestURI takes an absolute URL or an absolute path; anything else is silently no match.
        if not url or not (url.startswith("/") or "://" in url):
            return False
        try:
            path = urlsplit(url).path if "://" in url else url.partition("?")[0]
        except ValueError:
            return False
        return any(one.search(path) for one in expressions)

    return matches


def headers(values: Iterable[flow_pb2.HTTPHeader]) -> Predicate:
    wanted = frozenset((value.key, value.value) for value in values)
    return lambda flow: flow.l7.HasField("http") and any((header.key, header.value) in wanted for header in flow.l7.http.headers)


# The event itself


def event_types(values: Iterable[flow_pb2.EventTypeFilter]) -> Predicate:
    wanted = [(value.type, value.sub_type if value.match_sub_type else None) for value in values]

    def matches(flow: flow_pb2.Flow) -> bool:
        if not flow.HasField("event_type"):
            return False
        event = flow.event_type
        return any((not kind or kind == event.type) and (sub is None or sub == event.sub_type) for kind, sub in wanted)

    return matches


def replies(values: Iterable[bool]) -> Predicate:
    wanted = frozenset(values)

    def matches(flow: flow_pb2.Flow) -> bool:
        # A dropped flow does not say whether it is a reply; Hubble takes it for none.
        if not flow.HasField("is_reply") and flow.verdict != _DROPPED:
            return False
        return flow.is_reply.value in wanted

    return matches


def drop_reasons(values: Iterable[int]) -> Predicate:
    wanted = frozenset(values)
    return lambda flow: flow.verdict == _DROPPED and flow.drop_reason_desc in wanted


def interfaces(values: Iterable[flow_pb2.NetworkInterface]) -> Predicate:
    wanted = [(value.index, value.name) for value in values]
    return lambda flow: (
        flow.HasField("interface")
        and any((not index or index == flow.interface.index) and (not name or name == flow.interface.name) for index, name in wanted)
    )
