"""Hubble flows as values: the part of `flow.Flow` that verdicts need, with Cilium's own numbers and words."""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct, field

from harness.model.traffic import Direction, Protocol
from harness.model.verdict import PolicyRef


class FlowVerdict(IntEnum):
    """flow.Verdict (api/v1/flow/flow.proto)."""

    VERDICT_UNKNOWN = 0
    FORWARDED = 1
    DROPPED = 2
    ERROR = 3
    AUDIT = 4
    REDIRECTED = 5
    TRACED = 6
    TRANSLATED = 7


class DropReason(IntEnum):
    """flow.DropReason, the ones policy produces."""

    UNKNOWN = 0
    POLICY_DENIED = 133
    POLICY_DENY = 181
    AUTH_REQUIRED = 189


class EventType(IntEnum):
    """CiliumEventType.type."""

    UNKNOWN = 0
    DROP = 1
    TRACE = 4
    POLICY_VERDICT = 5
    L7 = 129


class FiveTuple(Struct, frozen=True, gc=False):
    """Addresses and ports of a packet in its own direction. ICMP: source_port is 0, destination_port the type."""

    protocol: Protocol
    source: str
    source_port: int
    destination: str
    destination_port: int

    def reversed(self) -> FiveTuple:
        return FiveTuple(self.protocol, self.destination, self.destination_port, self.source, self.source_port)

    def __str__(self) -> str:
        def at(address: str, port: int) -> str:
            return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"

        return f"{self.protocol.value} {at(self.source, self.source_port)} -> {at(self.destination, self.destination_port)}"


class FlowEndpoint(Struct, frozen=True, gc=False):
    """One end of a flow as Hubble reports it. `pod` is empty for what is not a pod."""

    identity: int = 0
    namespace: str = ""
    pod: str = ""
    labels: tuple[str, ...] = ()
    cluster: str = ""
    id: int = 0
    workloads: tuple[tuple[str, str], ...] = ()
    """(kind, name) of each workload the pod belongs to."""


class L7Record(Struct, frozen=True, gc=False):
    """The L7 part. kind: `http` or `dns`; type: 1 request, 2 response; `ttl` in seconds."""

    kind: str
    type: int
    latency_ns: int = 0
    code: int = 0
    method: str = ""
    url: str = ""
    protocol: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    query: str = ""
    rcode: int = 0
    ips: tuple[str, ...] = ()
    qtypes: tuple[str, ...] = ()
    ttl: int = 0


class Flow(Struct, frozen=True, gc=False):
    """One flow event. `time` is nanoseconds since the epoch; `drop_reason` a DropReason or another Cilium number."""

    time: int
    verdict: FlowVerdict
    five_tuple: FiveTuple
    direction: Direction | None = None
    drop_reason: int = 0
    source: FlowEndpoint = field(default_factory=FlowEndpoint)
    destination: FlowEndpoint = field(default_factory=FlowEndpoint)
    event_type: int = 0
    sub_type: int = 0
    is_reply: bool | None = None
    node: str = ""
    policy_match_type: int = 0
    egress_allowed_by: tuple[PolicyRef, ...] = ()
    ingress_allowed_by: tuple[PolicyRef, ...] = ()
    egress_denied_by: tuple[PolicyRef, ...] = ()
    ingress_denied_by: tuple[PolicyRef, ...] = ()
    policy_log: tuple[str, ...] = ()
    proxy_port: int = 0
    tcp_flags: tuple[str, ...] = ()
    l7: L7Record | None = None
    uuid: str = ""
    destination_service: str = ""
    """`namespace/name` where the connection was to a service."""
    source_service: str = ""
    source_names: tuple[str, ...] = ()
    destination_names: tuple[str, ...] = ()
    """DNS names that the agent knows for the address."""
    encrypted: bool = False
    auth_type: int = 0
    trace_point: int = 0
    """TraceObservationPoint of a trace event, 0 otherwise."""
    trace_reason: int = 0
    icmp_code: int = 0

    @property
    def dropped(self) -> bool:
        return self.verdict is FlowVerdict.DROPPED

    @property
    def is_l7(self) -> bool:
        """Whether a proxy told of it. A refused connection has no record: nobody read what it said."""
        return self.l7 is not None or self.event_type == EventType.L7

    @property
    def forwarded(self) -> bool:
        return self.verdict in (FlowVerdict.FORWARDED, FlowVerdict.REDIRECTED, FlowVerdict.TRANSLATED)


class LostEvents(Struct, frozen=True, gc=False):
    """The Observer says that events were lost: nothing may be concluded from their absence. Times as in Flow; 0 where not told.

    `source` is a LostEventSource by name, or what the client itself noticed, such as `stream lost`."""

    count: int
    source: str = ""
    first: int = 0
    last: int = 0
    node: str = ""
