"""Events as the lines that `hubble observe` prints (hubble/pkg/printer of Cilium 1.20, compact output with policy names). Pure.

What was sent (`TCP Flags: SYN`) is taken from the flow itself; Hubble's client prints what its server wrote into a field of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from harness.hubble.convert import Event
from harness.hubble.proto import flow_pb2
from harness.model.flow import DropReason, EventType, Flow, FlowEndpoint, FlowVerdict, L7Record, LostEvents
from harness.model.identity import ReservedIdentity
from harness.model.traffic import Direction, Protocol
from harness.model.verdict import PolicyRef

_MATCHES = ("none", "L3-Only", "L3-L4", "L4-Only", "all", "L3-Proto", "Proto-Only")
_TRACE_POINTS = (
    "to-endpoint", "to-proxy", "to-host", "to-stack", "to-overlay", "from-endpoint", "from-proxy", "from-host", "from-stack", "from-overlay",
    "from-network", "to-network", "from-crypto", "to-crypto",
)  # fmt: skip
_DROPS: Mapping[int, str] = {
    DropReason.POLICY_DENIED: "Policy denied",
    DropReason.POLICY_DENY: "Policy denied by denylist",
    DropReason.AUTH_REQUIRED: "Authentication required",
}
_DROP_NAMES: Mapping[int, str] = {number: name for name, number in flow_pb2.DropReason.items()}
_L7_TYPES = {1: "request", 2: "response", 3: "sample"}
_VERDICT_WORDS = {
    FlowVerdict.FORWARDED: "ALLOWED",
    FlowVerdict.REDIRECTED: "ALLOWED",
    FlowVerdict.DROPPED: "DENIED",
    FlowVerdict.ERROR: "DENIED",
    FlowVerdict.AUDIT: "AUDITED",
}
_COLOURS = {
    FlowVerdict.FORWARDED: "green",
    FlowVerdict.REDIRECTED: "green",
    FlowVerdict.DROPPED: "red",
    FlowVerdict.ERROR: "red",
    FlowVerdict.AUDIT: "yellow",
}


def _plain(text: str, colour: str) -> str:
    del colour
    return text


def line(event: Event, paint: Callable[[str, str], str] = _plain) -> str:
    """The event as one line. `paint` gives a text a colour by its name."""
    if isinstance(event, LostEvents):
        return paint(f"EVENTS LOST: {event.source or 'UNKNOWN'} {event.count}", "red")
    source, destination = _end(event, Direction.EGRESS, paint), _end(event, Direction.INGRESS, paint)
    if event.is_reply is None:
        arrow = "<>"
    elif event.is_reply:
        source, destination, arrow = destination, source, "<-"
    else:
        arrow = "->"
    verdict = paint(_printable(_verdict(event)), _COLOURS.get(event.verdict, ""))
    return f"{_time(event.time)}: {source} {arrow} {destination} {_type(event)} {verdict} ({_printable(_summary(event))})"


def _time(nanoseconds: int) -> str:
    """As Go prints StampMilli, in UTC."""
    when = datetime.fromtimestamp(nanoseconds // 1_000_000_000, tz=UTC)
    return f"{when:%b} {when.day:2d} {when:%H:%M:%S}.{nanoseconds // 1_000_000 % 1000:03d}"


def _end(flow: Flow, side: Direction, paint: Callable[[str, str], str]) -> str:
    five = flow.five_tuple
    if side is Direction.EGRESS:
        address, port, end, service, names = five.source, five.source_port, flow.source, flow.source_service, flow.source_names
    else:
        address, port, end, service, names = (
            five.destination, five.destination_port, flow.destination, flow.destination_service, flow.destination_names,
        )  # fmt: skip
    host = _host(address, end, service, names)
    if five.protocol.has_ports and port:
        host = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return f"{paint(_printable(host), 'cyan')} ({_identity(end.identity)})"


def _identity(number: int) -> str:
    try:
        return ReservedIdentity(number).name.lower().replace("_", "-")
    except ValueError:
        return f"ID:{number}"


def _printable(text: str) -> str:
    """What others wrote into a flow does not command the terminal of who reads it."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)


def _host(address: str, end: FlowEndpoint, service: str, names: Sequence[str]) -> str:
    if end.pod:
        namespace = service.rpartition("/")[0] or end.namespace
        return f"{namespace}/{end.pod}" if namespace else end.pod
    return service or ",".join(names) or address


def _type(flow: Flow) -> str:
    if flow.l7 is not None:
        return f"{flow.l7.kind or 'l7'}-{_L7_TYPES.get(flow.l7.type, 'unknown_l7_type')}" + (" " if flow.l7.kind == "dns" else "")
    match flow.event_type:
        case EventType.TRACE:
            return _TRACE_POINTS[flow.sub_type] if flow.sub_type < len(_TRACE_POINTS) else str(flow.sub_type)
        case EventType.DROP:
            return drop_reason(flow.sub_type or flow.drop_reason)
        case EventType.POLICY_VERDICT:
            match = _MATCHES[flow.policy_match_type] if flow.policy_match_type < len(_MATCHES) else "unknown"
            return f"policy-verdict:{match} {(flow.direction or 'TRAFFIC_DIRECTION_UNKNOWN').upper()}"
        case _:
            return "UNKNOWN"


def drop_reason(number: int) -> str:
    """Why a packet was dropped, in Cilium's words."""
    return _DROPS.get(number) or _DROP_NAMES.get(number, str(number)).replace("_", " ").capitalize()


def _verdict(flow: Flow) -> str:
    if flow.event_type != EventType.POLICY_VERDICT:
        return flow.verdict.name
    allowed = flow.verdict in (FlowVerdict.FORWARDED, FlowVerdict.REDIRECTED)
    by: tuple[PolicyRef, ...] = ()
    if flow.direction is Direction.EGRESS:
        by = flow.egress_allowed_by if allowed else flow.egress_denied_by
    elif flow.direction is Direction.INGRESS:
        by = flow.ingress_allowed_by if allowed else flow.ingress_denied_by
    named = ", ".join(f"{ref.name} ({ref.kind})" for ref in by if ref.kind and ref.name)
    return _VERDICT_WORDS.get(flow.verdict, flow.verdict.name) + (f" BY {named}" if named else "")


def _summary(flow: Flow) -> str:
    if flow.l7 is not None:
        return _l7(flow.l7)
    five = flow.five_tuple
    if five.protocol is Protocol.TCP:
        return f"TCP Flags: {', '.join(flow.tcp_flags)}" if flow.tcp_flags else "TCP"
    if five.protocol.has_ports:
        return five.protocol.value
    return f"{'ICMPv4' if five.protocol is Protocol.ICMP else five.protocol.value} type {five.destination_port}"


def _l7(record: L7Record) -> str:
    response = record.type == 2
    if record.kind == "http":
        status = f" {record.code} {record.latency_ns / 1e6:.3f}ms" if response else ""
        return f"{record.protocol} {record.method} {record.url}{status}".strip()
    if record.kind == "dns":
        types = ",".join(record.qtypes)
        answer = f" answer: {', '.join(record.ips) or f'rcode {record.rcode}'}" if response else ""
        return f"DNS {record.query} {types}{answer}".rstrip()
    return record.kind
