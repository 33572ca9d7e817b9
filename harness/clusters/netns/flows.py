"""From the kernel's log to Hubble flows, as Cilium's agent makes them of its datapath's events. Decides nothing: the kernel did.

A policy-verdict event where a policy is enforced in that direction (for a connection's first packet, and for every drop), a drop event
beside each dropped one, and a trace event where a connection reaches its endpoint or leaves the node.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from functools import cache

from harness.clusters.netns.ruleset import Label
from harness.clusters.netns.snapshot import Party, Snapshot, deciding, policies_of
from harness.model.flow import DropReason, EventType, FiveTuple, Flow, FlowVerdict, LostEvents
from harness.model.traffic import Direction, Protocol
from harness.model.verdict import PolicyRef

_TO_ENDPOINT, _TO_HOST, _TO_STACK, _TO_NETWORK = (0, 101), (2, 2), (3, 3), (11, 11)
"""Trace points: the datapath's number (the event's sub-type) and Hubble's."""
_TRACE_NEW = 1
_PROTOCOLS = {protocol.number: protocol for protocol in Protocol}
_PORTS = struct.Struct("!HH")
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")

_label = cache(lambda prefix: Label.parse(prefix.decode()))


@cache
def _tcp_flags(bits: int) -> tuple[str, ...]:
    return tuple(name for number, name in enumerate(_FLAGS) if bits >> number & 1)


class Packet:
    """The part of a packet's beginning that flows tell."""

    __slots__ = ("destination", "flags", "icmp_code", "port", "protocol", "source", "source_port")

    def __init__(self, data: bytes) -> None:
        if data[0] >> 4 == 4:
            number, self.source, self.destination = data[9], data[12:16], data[16:20]
            offset = (data[0] & 15) * 4
        else:
            number, self.source, self.destination = data[6], data[8:24], data[24:40]
            offset = 40
        self.protocol = _PROTOCOLS.get(number)
        self.source_port = self.port = self.icmp_code = 0
        self.flags: tuple[str, ...] = ()
        if number in {6, 17, 132} and len(data) >= offset + 4:
            self.source_port, self.port = _PORTS.unpack_from(data, offset)
            if number == 6 and len(data) > offset + 13:
                self.flags = _tcp_flags(data[offset + 13])
        elif number in {1, 58} and len(data) >= offset + 2:
            self.port, self.icmp_code = data[offset], data[offset + 1]


class FlowMaker:
    """Makes flows of log entries and hands them to `publish`. `snapshot` gives what was enforced at a revision."""

    def __init__(self, snapshot: Callable[[int], Snapshot | None], publish: Callable[[Flow | LostEvents], None]) -> None:
        self._snapshot = snapshot
        self._publish = publish
        self._run = f"{os.urandom(4).hex()}-{os.urandom(2).hex()}-4{os.urandom(2).hex()[1:]}-a{os.urandom(2).hex()[1:]}-"
        self._count = 0
        self._last: dict[str, int] = {}
        self.logged = 0
        """Packets that the kernel reported."""
        self.lost_count = 0

    def lost(self, node: str) -> None:
        """The kernel had to throw away events of this node; how many, it does not say."""
        self.lost_count += 1
        now = time.time_ns()
        self._publish(LostEvents(1, "PERF_EVENT_RING_BUFFER", self._last.get(node, now), now, f"node-{node}"))

    def packet(self, node: str, prefix: bytes, data: bytes) -> None:
        """One entry of a node's log."""
        self.logged += 1
        label = _label(prefix)
        snapshot = self._snapshot(label.revision)
        packet = Packet(data)
        if snapshot is None or packet.protocol is None:
            return
        source, destination = snapshot.party(node, packet.source), snapshot.party(node, packet.destination)
        event = _Event(self, node, snapshot, packet, packet.protocol, source, destination)
        self._last[node] = event.time
        leaves, arrives = source.node == node, destination.node == node
        if label.reason:
            if label.at == Direction.EGRESS:
                event.dropped(Direction.EGRESS, label.reason)
                return
            if leaves and label.new:
                event.allowed(Direction.EGRESS)
            event.dropped(Direction.INGRESS, label.reason)
            return
        if leaves:
            event.allowed(Direction.EGRESS)
            if not arrives:
                event.traced(Direction.EGRESS, _TO_STACK)
        if arrives:
            event.allowed(Direction.INGRESS)
            event.traced(Direction.INGRESS, _TO_ENDPOINT)
        elif not leaves and label.at == "input":
            event.traced(Direction.INGRESS, _TO_HOST)
        elif not leaves and label.at == "output":
            event.traced(Direction.EGRESS, _TO_NETWORK)

    def emit(self, flow: Flow) -> None:
        self._publish(flow)

    def uuid(self) -> str:
        self._count += 1
        return f"{self._run}{self._count:012x}"


class _Event:
    """One packet on one node: everything its flows have in common."""

    __slots__ = ("_destination", "_five", "_maker", "_node", "_packet", "_snapshot", "_source", "time")

    def __init__(
        self, maker: FlowMaker, node: str, snapshot: Snapshot, packet: Packet, protocol: Protocol, source: Party, destination: Party
    ) -> None:
        self.time = time.time_ns()
        self._maker = maker
        self._node = f"node-{node}"
        self._snapshot = snapshot
        self._packet = packet
        self._source = source
        self._destination = destination
        self._five = FiveTuple(protocol, source.address, packet.source_port, destination.address, packet.port)

    def allowed(self, direction: Direction) -> None:
        """A policy-verdict event, where a policy is enforced at all."""
        ingress = direction is Direction.INGRESS
        subject, peer = (self._destination, self._source) if ingress else (self._source, self._destination)
        policy = self._snapshot.policy(subject.pod, direction)
        if policy is None:
            return
        interval = deciding(policy, peer.flow.identity, self._five.protocol.number, self._five.destination_port)
        self._emit(
            direction,
            EventType.POLICY_VERDICT,
            is_reply=False,
            ingress_allowed_by=policies_of(interval) if ingress else (),
            egress_allowed_by=() if ingress else policies_of(interval),
        )

    def dropped(self, direction: Direction, reason: int) -> None:
        """A policy-verdict event and a drop event. Only a deny rule has a name: default deny is that no policy decided."""
        ingress = direction is Direction.INGRESS
        subject, peer = (self._destination, self._source) if ingress else (self._source, self._destination)
        policy = self._snapshot.policy(subject.pod, direction)
        deniers: tuple[PolicyRef, ...] = ()
        if policy is not None and reason == DropReason.POLICY_DENY:
            deniers = policies_of(deciding(policy, peer.flow.identity, self._five.protocol.number, self._five.destination_port))
        denied_by = {"ingress_denied_by" if ingress else "egress_denied_by": deniers}
        self._emit(direction, EventType.POLICY_VERDICT, verdict=FlowVerdict.DROPPED, drop_reason=reason, is_reply=False, **denied_by)
        self._emit(direction, EventType.DROP, verdict=FlowVerdict.DROPPED, drop_reason=reason, sub_type=reason, **denied_by)

    def traced(self, direction: Direction, point: tuple[int, int]) -> None:
        self._emit(direction, EventType.TRACE, sub_type=point[0], trace_point=point[1], trace_reason=_TRACE_NEW, is_reply=False)

    def _emit(self, direction: Direction, kind: EventType, *, verdict: FlowVerdict = FlowVerdict.FORWARDED, **more: object) -> None:
        maker, packet = self._maker, self._packet
        maker.emit(
            Flow(
                time=self.time,
                verdict=verdict,
                five_tuple=self._five,
                direction=direction,
                source=self._source.flow,
                destination=self._destination.flow,
                event_type=kind,
                node=self._node,
                tcp_flags=packet.flags,
                icmp_code=packet.icmp_code,
                uuid=maker.uuid(),
                **more,  # type: ignore[arg-type]  # fields of Flow, given by name just above
            )
        )
