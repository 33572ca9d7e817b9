"""Hubble's messages to and from our values, and to and from the JSON that `hubble observe -o json` prints. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from google.protobuf import json_format

from harness.hubble.proto import flow_pb2, observer_pb2
from harness.model.flow import FiveTuple, Flow, FlowEndpoint, FlowVerdict, L7Record, LostEvents
from harness.model.traffic import Direction, Protocol
from harness.model.verdict import PolicyRef

Event: TypeAlias = Flow | LostEvents

_DIRECTIONS: Mapping[Direction | None, int] = {None: 0, Direction.INGRESS: 1, Direction.EGRESS: 2}
_DIRECTION_OF: Mapping[int, Direction | None] = {1: Direction.INGRESS, 2: Direction.EGRESS}
_TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "NS")
_VERDICT_OF: Mapping[int, FlowVerdict] = {int(verdict): verdict for verdict in FlowVerdict}
_LAYER4: Mapping[str, Protocol] = {
    "TCP": Protocol.TCP,
    "UDP": Protocol.UDP,
    "SCTP": Protocol.SCTP,
    "ICMPv4": Protocol.ICMP,
    "ICMPv6": Protocol.ICMPV6,
    "VRRP": Protocol.VRRP,
    "IGMP": Protocol.IGMP,
}
_WITH_PORTS = ("TCP", "UDP", "SCTP")
_LOST_SOURCES: Mapping[str, int] = dict(flow_pb2.LostEventSource.items())
_LOST_SOURCE_NAMES: Mapping[int, str] = {number: name for name, number in _LOST_SOURCES.items()}
_NANOSECONDS = 1_000_000_000


# To the wire


@lru_cache(maxsize=4096)
def _endpoint(endpoint: FlowEndpoint) -> flow_pb2.Endpoint:
    # A case has few endpoints and very many flows: each is built once and copied.
    return flow_pb2.Endpoint(
        ID=endpoint.id,
        identity=endpoint.identity,
        namespace=endpoint.namespace,
        labels=endpoint.labels,
        pod_name=endpoint.pod,
        cluster_name=endpoint.cluster,
        workloads=[flow_pb2.Workload(kind=kind, name=name) for kind, name in endpoint.workloads],
    )


@lru_cache(maxsize=4096)
def _policy(ref: PolicyRef) -> flow_pb2.Policy:
    return flow_pb2.Policy(kind=ref.kind, namespace=ref.namespace, name=ref.name)


def _service(name: str) -> flow_pb2.Service:
    namespace, _, short = name.rpartition("/")
    return flow_pb2.Service(namespace=namespace, name=short)


def _layer4(message: flow_pb2.Flow, flow: Flow) -> None:
    five = flow.five_tuple
    match five.protocol:
        case Protocol.TCP:
            tcp = message.l4.TCP
            tcp.source_port = five.source_port
            tcp.destination_port = five.destination_port
            if flow.tcp_flags:
                for flag in flow.tcp_flags:
                    setattr(tcp.flags, flag, True)
            tcp.SetInParent()
        case Protocol.UDP | Protocol.SCTP:
            ports = message.l4.UDP if five.protocol is Protocol.UDP else message.l4.SCTP
            ports.source_port = five.source_port
            ports.destination_port = five.destination_port
            ports.SetInParent()
        case Protocol.ICMP | Protocol.ICMPV6:
            icmp = message.l4.ICMPv4 if five.protocol is Protocol.ICMP else message.l4.ICMPv6
            icmp.type = five.destination_port
            icmp.code = flow.icmp_code
            icmp.SetInParent()
        case Protocol.VRRP:
            message.l4.VRRP.type = five.destination_port
            message.l4.VRRP.SetInParent()
        case Protocol.IGMP:
            message.l4.IGMP.type = five.destination_port
            message.l4.IGMP.SetInParent()
        case _:
            pass  # the message has no layer 4 for it, as in Cilium


def _layer7(message: flow_pb2.Layer7, record: L7Record) -> None:
    message.type = record.type  # type: ignore[assignment]  # an open enum: any number goes
    message.latency_ns = record.latency_ns
    message.SetInParent()
    if record.kind == "http":
        message.http.SetInParent()
        message.http.code = record.code
        message.http.method = record.method
        message.http.url = record.url
        message.http.protocol = record.protocol
        for key, value in record.headers:
            message.http.headers.add(key=key, value=value)
    elif record.kind == "dns":
        message.dns.SetInParent()
        message.dns.query = record.query
        message.dns.rcode = record.rcode
        message.dns.ips.extend(record.ips)
        message.dns.qtypes.extend(record.qtypes)
        message.dns.ttl = record.ttl


def flow_to_proto(flow: Flow) -> flow_pb2.Flow:
    """The message for a flow. `drop_reason` goes into both of Hubble's fields for it; protocols without a layer 4 in Hubble lose their port."""
    message = flow_pb2.Flow()
    fill_flow(message, flow)
    return message


def fill_flow(message: flow_pb2.Flow, flow: Flow) -> None:
    """As `flow_to_proto`, into an empty message that is part of another."""
    five = flow.five_tuple
    message.time.seconds, message.time.nanos = divmod(flow.time, _NANOSECONDS)
    message.verdict = int(flow.verdict)  # type: ignore[assignment]
    address = message.IP
    address.source = five.source
    address.destination = five.destination
    address.ipVersion = 2 if ":" in five.source else 1  # type: ignore[assignment]
    if flow.encrypted:
        address.encrypted = True
    _layer4(message, flow)
    message.source.CopyFrom(_endpoint(flow.source))
    message.destination.CopyFrom(_endpoint(flow.destination))
    message.Type = 2 if flow.l7 is not None else 1  # type: ignore[assignment]
    if flow.direction is not None:
        message.traffic_direction = _DIRECTIONS[flow.direction]  # type: ignore[assignment]
    if flow.drop_reason:
        message.drop_reason = flow.drop_reason
        message.drop_reason_desc = flow.drop_reason  # type: ignore[assignment]
    if flow.event_type or flow.sub_type:
        message.event_type.type = flow.event_type
        message.event_type.sub_type = flow.sub_type
    if flow.is_reply is not None:
        message.is_reply.value = flow.is_reply
        message.reply = flow.is_reply
    if flow.node:
        message.node_name = flow.node
    if flow.policy_match_type:
        message.policy_match_type = flow.policy_match_type
    if flow.egress_allowed_by:
        message.egress_allowed_by.extend(map(_policy, flow.egress_allowed_by))
    if flow.ingress_allowed_by:
        message.ingress_allowed_by.extend(map(_policy, flow.ingress_allowed_by))
    if flow.egress_denied_by:
        message.egress_denied_by.extend(map(_policy, flow.egress_denied_by))
    if flow.ingress_denied_by:
        message.ingress_denied_by.extend(map(_policy, flow.ingress_denied_by))
    if flow.policy_log:
        message.policy_log.extend(flow.policy_log)
    if flow.proxy_port:
        message.proxy_port = flow.proxy_port
    if flow.uuid:
        message.uuid = flow.uuid
    if flow.l7 is not None:
        _layer7(message.l7, flow.l7)
    if flow.destination_service:
        message.destination_service.CopyFrom(_service(flow.destination_service))
    if flow.source_service:
        message.source_service.CopyFrom(_service(flow.source_service))
    if flow.source_names:
        message.source_names.extend(flow.source_names)
    if flow.destination_names:
        message.destination_names.extend(flow.destination_names)
    if flow.auth_type:
        message.auth_type = flow.auth_type  # type: ignore[assignment]
    if flow.trace_point:
        message.trace_observation_point = flow.trace_point  # type: ignore[assignment]
    if flow.trace_reason:
        message.trace_reason = flow.trace_reason  # type: ignore[assignment]


def lost_to_proto(lost: LostEvents) -> flow_pb2.LostEvent:
    """The message for lost events. A source that is no LostEventSource is sent as unknown."""
    message = flow_pb2.LostEvent(num_events_lost=lost.count, source=_LOST_SOURCES.get(lost.source, 0))  # type: ignore[arg-type]
    if lost.first:
        message.first.seconds, message.first.nanos = divmod(lost.first, _NANOSECONDS)
    if lost.last:
        message.last.seconds, message.last.nanos = divmod(lost.last, _NANOSECONDS)
    return message


def response_to_proto(event: Event, at: int = 0) -> observer_pb2.GetFlowsResponse:
    """The event as GetFlows sends it. `at` is the time of lost events (ns since the epoch), which carry none themselves."""
    response = observer_pb2.GetFlowsResponse(node_name=event.node)
    if isinstance(event, Flow):
        fill_flow(response.flow, event)
        response.time.seconds, response.time.nanos = divmod(event.time, _NANOSECONDS)
    else:
        response.lost_events.CopyFrom(lost_to_proto(event))
        response.time.seconds, response.time.nanos = divmod(at or event.last or event.first, _NANOSECONDS)
    return response


# From the wire


# Reading a message field by field costs more than anything else here, and endpoints repeat: keyed by their bytes.
@lru_cache(maxsize=4096)
def _endpoint_of(data: bytes) -> FlowEndpoint:
    message = flow_pb2.Endpoint.FromString(data)
    return FlowEndpoint(
        identity=message.identity,
        namespace=message.namespace,
        pod=message.pod_name,
        labels=tuple(message.labels),
        cluster=message.cluster_name,
        id=message.ID,
        workloads=tuple((workload.kind, workload.name) for workload in message.workloads),
    )


@lru_cache(maxsize=4096)
def _ref_of(data: bytes) -> PolicyRef:
    policy = flow_pb2.Policy.FromString(data)
    return PolicyRef(policy.kind, policy.namespace, policy.name)


def _refs_of(policies: Collection[flow_pb2.Policy]) -> tuple[PolicyRef, ...]:
    # Rules that Cilium adds itself (the own node always gets in) are told by their labels alone: no policy of a name decided.
    return tuple([_ref_of(policy.SerializeToString()) for policy in policies if policy.name]) if policies else ()


@lru_cache(maxsize=512)
def _flags_of(data: bytes) -> tuple[str, ...]:
    flags = flow_pb2.TCPFlags.FromString(data)
    return tuple(flag for flag in _TCP_FLAGS if getattr(flags, flag))


def _service_of(service: flow_pb2.Service) -> str:
    return f"{service.namespace}/{service.name}" if service.namespace else service.name


def time_of(stamp: Any) -> int:
    """A Timestamp in nanoseconds since the epoch."""
    return int(stamp.seconds) * _NANOSECONDS + int(stamp.nanos)


def five_tuple_of(message: flow_pb2.Flow) -> FiveTuple | None:
    """Addresses, protocol and ports, or None where the flow has no addresses or no layer 4 that policies know."""
    l4 = message.l4
    kind = l4.WhichOneof("protocol")
    if kind is None or not message.HasField("IP"):
        return None
    part: Any = getattr(l4, kind)
    protocol = _LAYER4[kind]
    address = message.IP
    if kind in _WITH_PORTS:
        return FiveTuple(protocol, address.source, part.source_port, address.destination, part.destination_port)
    return FiveTuple(protocol, address.source, 0, address.destination, part.type)


def _record_of(message: flow_pb2.Layer7) -> L7Record:
    kind = message.WhichOneof("record")
    if kind == "http":
        http = message.http
        return L7Record(
            kind="http",
            type=int(message.type),
            latency_ns=message.latency_ns,
            code=http.code,
            method=http.method,
            url=http.url,
            protocol=http.protocol,
            headers=tuple((header.key, header.value) for header in http.headers),
        )
    if kind == "dns":
        dns = message.dns
        return L7Record(
            kind="dns",
            type=int(message.type),
            latency_ns=message.latency_ns,
            query=dns.query,
            rcode=dns.rcode,
            ips=tuple(dns.ips),
            qtypes=tuple(dns.qtypes),
            ttl=dns.ttl,
        )
    return L7Record(kind=kind or "", type=int(message.type), latency_ns=message.latency_ns)


def flow_of(message: flow_pb2.Flow, five_tuple: FiveTuple | None = None) -> Flow | None:
    """The inverse of `flow_to_proto`. None for what no probe can have caused: a flow without addresses or without a layer 4 that policies know."""
    five = five_tuple or five_tuple_of(message)
    if five is None:
        return None
    event = message.event_type
    return Flow(
        time=time_of(message.time),
        verdict=_VERDICT_OF.get(int(message.verdict), FlowVerdict.VERDICT_UNKNOWN),
        five_tuple=five,
        direction=_DIRECTION_OF.get(int(message.traffic_direction)),
        drop_reason=int(message.drop_reason_desc) or message.drop_reason,
        source=_endpoint_of(message.source.SerializeToString()),
        destination=_endpoint_of(message.destination.SerializeToString()),
        event_type=event.type,
        sub_type=event.sub_type,
        is_reply=message.is_reply.value if message.HasField("is_reply") else None,
        node=message.node_name,
        policy_match_type=message.policy_match_type,
        egress_allowed_by=_refs_of(message.egress_allowed_by),
        ingress_allowed_by=_refs_of(message.ingress_allowed_by),
        egress_denied_by=_refs_of(message.egress_denied_by),
        ingress_denied_by=_refs_of(message.ingress_denied_by),
        policy_log=tuple(message.policy_log) if message.policy_log else (),
        proxy_port=message.proxy_port,
        tcp_flags=_flags_of(message.l4.TCP.flags.SerializeToString()) if five.protocol is Protocol.TCP else (),
        l7=_record_of(message.l7) if message.HasField("l7") else None,
        uuid=message.uuid,
        destination_service=_service_of(message.destination_service) if message.HasField("destination_service") else "",
        source_service=_service_of(message.source_service) if message.HasField("source_service") else "",
        source_names=tuple(message.source_names) if message.source_names else (),
        destination_names=tuple(message.destination_names) if message.destination_names else (),
        encrypted=message.IP.encrypted,
        auth_type=int(message.auth_type),
        trace_point=int(message.trace_observation_point),
        trace_reason=int(message.trace_reason),
        icmp_code=_icmp_code(message, five.protocol),
    )


def _icmp_code(message: flow_pb2.Flow, protocol: Protocol) -> int:
    if protocol is Protocol.ICMP:
        return message.l4.ICMPv4.code
    if protocol is Protocol.ICMPV6:
        return message.l4.ICMPv6.code
    return 0


def lost_of(message: flow_pb2.LostEvent, node: str = "") -> LostEvents:
    """The inverse of `lost_to_proto`; the node comes from the response around it."""
    number = int(message.source)
    return LostEvents(
        count=message.num_events_lost,
        source=_LOST_SOURCE_NAMES.get(number, str(number)) if number else "",
        first=time_of(message.first),
        last=time_of(message.last),
        node=node,
    )


# JSON


def to_json(event: Event) -> dict[str, Any]:
    """The event as one line of `hubble observe -o json`: proto names, enum names as text, the flow under `flow` or losses under `lost_events`."""
    value: dict[str, Any] = json_format.MessageToDict(response_to_proto(event), preserving_proto_field_name=True)
    return value


def from_json(document: str | bytes | Mapping[str, Any]) -> Event | None:
    """One line of `hubble observe -o json`, or a flow by itself as `-o json` of older clients and the Hubble exporter print it.

    Takes snake_case and lowerCamelCase names; ignores fields it does not know. None for node status and for flows that `flow_of` cannot take.
    Raises ValueError for what is no such JSON.
    """
    value = json.loads(document) if isinstance(document, str | bytes) else dict(document)
    if not isinstance(value, dict):
        raise ValueError(f"a flow is a JSON object, not {type(value).__name__}")  # noqa: TRY004  # one type for whatever is no such JSON
    if not value.keys() & {"flow", "lost_events", "lostEvents", "node_status", "nodeStatus"}:
        value = {"flow": value, "node_name": value.get("node_name", value.get("nodeName", ""))}
    try:
        response = json_format.ParseDict(value, observer_pb2.GetFlowsResponse(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise ValueError(f"not a Hubble flow: {error}") from error
    return event_of(response)


def event_of(response: observer_pb2.GetFlowsResponse) -> Event | None:
    """What a response of GetFlows carries: a flow, lost events, or None (node status; a flow that `flow_of` cannot take)."""
    kind = response.WhichOneof("response_types")
    if kind == "flow":
        return flow_of(response.flow)
    if kind == "lost_events":
        return lost_of(response.lost_events, response.node_name)
    return None
