"""From the kernel's log to Hubble flows, as Cilium's agent makes them of its datapath's events. Decides nothing: the kernel did.

A policy-verdict event where a policy is enforced in that direction (for a connection's first packet, and for every drop), a drop event
beside each dropped one, and a trace event where a connection reaches its endpoint or leaves the node.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache

from harness.clusters.netns.nflog import PacketLog
from harness.clusters.netns.origins import Origins
from harness.clusters.netns.packet import Packet
from harness.clusters.netns.ruleset import Label
from harness.clusters.netns.snapshot import Snapshot, deciding, policies_of
from harness.model.flow import DropReason, EventType, FiveTuple, Flow, FlowVerdict, LostEvents
from harness.model.traffic import Direction, Protocol
from harness.model.verdict import PolicyRef

_TO_ENDPOINT, _TO_HOST, _TO_STACK, _TO_NETWORK = (0, 101), (2, 2), (3, 3), (11, 11)
"""Trace points: the datapath's number (the event's sub-type) and Hubble's."""
_TRACE_NEW = 1

_label = cache(lambda prefix: Label.parse(prefix.decode()))


class FlowMaker:
    """Makes flows of log entries and hands them to `publish`. `snapshot` gives what was enforced at a revision."""

    def __init__(self, snapshot: Callable[[int], Snapshot | None], publish: Callable[[Flow | LostEvents], None]) -> None:
        self._snapshot = snapshot
        self._publish = publish
        self._run = f"{os.urandom(4).hex()}-{os.urandom(2).hex()}-4{os.urandom(2).hex()[1:]}-a{os.urandom(2).hex()[1:]}-"
        self._count = 0
        self._last: dict[str, int] = {}
        self._kept: list[tuple[str, bytes, bytes, int]] = []
        self.origins = Origins()

    def lost(self, node: str) -> None:
        """The kernel had to throw away events of this node; how many, it does not say."""
        name = f"node-{node}"
        now = time.time_ns()
        self._publish(LostEvents(1, "PERF_EVENT_RING_BUFFER", self._last.get(name, now), now, name))

    def now(self, node: str) -> int:
        """The time of an event of this node."""
        self._last[node] = now = time.time_ns()
        return now

    def read(self, logs: Mapping[str, PacketLog]) -> bool:
        """Publish what the logs of all nodes have, in an order in which it can have happened: the source's side of a packet before the
        target's. Whether something had to be kept for the next time.

        A packet is logged at its source first, so what the first reading finds of targets has its source's part at the latest in the
        second. What that finds of targets has to wait for the next.
        """
        entries, self._kept = self._kept, []
        for node, log in logs.items():
            entries.extend(self._taken(node, log))
        second = [entry for node, log in logs.items() for entry in self._taken(node, log)]
        targets: list[_Event] = []
        for entry in entries:
            event = self._event(*entry)
            if event is not None and event.at_source:
                event.publish()
            elif event is not None:
                targets.append(event)
        for entry in second:
            event = self._event(*entry)
            if event is not None and event.at_source:
                event.publish()
            else:
                self._kept.append(entry)
        for event in targets:
            event.publish()
        return bool(self._kept)

    def _taken(self, node: str, log: PacketLog) -> Iterator[tuple[str, bytes, bytes, int]]:
        """What a log has of policy. Whose connections proxies continue is learned at once, before anything is told of these."""
        for prefix, data, mark in log.read():
            match _label(prefix).at:
                case "proxied":
                    self.origins.dialled(Packet(data), mark)
                case "sent":
                    self.origins.sent(Packet(data))
                case _:
                    yield node, prefix, data, mark

    def _event(self, node: str, prefix: bytes, data: bytes, mark: int) -> _Event | None:
        label = _label(prefix)
        snapshot = self._snapshot(label.revision)
        packet = Packet(data)
        if snapshot is None or packet.protocol is None:
            return None
        return _Event(self, node, label, snapshot, packet, packet.protocol, mark)

    def emit(self, flow: Flow) -> None:
        self._publish(flow)

    def uuid(self) -> str:
        self._count += 1
        return f"{self._run}{self._count:012x}"


class _Event:
    """One packet on one node: everything its flows have in common."""

    __slots__ = (
        "_arrives", "_destination", "_ends_here", "_five", "_label", "_leaves", "_maker", "_node", "_origin", "_packet", "_proxy_port",
        "_sent_here", "_snapshot", "_source", "_time",
    )  # fmt: skip

    def __init__(
        self, maker: FlowMaker, node: str, label: Label, snapshot: Snapshot, packet: Packet, protocol: Protocol, mark: int
    ) -> None:
        self._maker = maker
        self._node = f"node-{node}"
        self._label = label
        self._snapshot = snapshot
        self._packet = packet
        self._source = source = snapshot.party(node, packet.source)
        self._destination = destination = snapshot.party(node, packet.destination)
        self._origin = maker.origins.find(packet.source, packet.source_port, packet.destination, packet.port)
        self._proxy_port = mark & 0xFFFF
        source_port = self._origin.port if self._origin is not None else packet.source_port
        self._five = FiveTuple(protocol, source.address, source_port, destination.address, packet.port)
        self._sent_here = source.node == node
        self._ends_here = destination.node == node
        self._leaves = self._sent_here and source.pod is not None
        self._arrives = self._ends_here and destination.pod is not None
        self._time = 0

    @property
    def at_source(self) -> bool:
        """Whether this node is where the packet came from."""
        return self._sent_here or (self._label.at == "output" and self._origin is None)

    def publish(self) -> None:
        """Everything that Cilium's agent would tell of it."""
        self._time = self._maker.now(self._node)
        label = self._label
        if label.reason:
            if label.at == Direction.EGRESS:
                self.dropped(Direction.EGRESS, label.reason)
                return
            if self._sent_here and label.new and self._origin is None:
                self.allowed(Direction.EGRESS)
            self.dropped(Direction.INGRESS, label.reason)
            return
        if label.at == "redirected_egress":
            self.allowed(Direction.EGRESS, redirected=True)
            return
        if label.at == "redirected_ingress":
            if self._sent_here and self._origin is None:
                self.allowed(Direction.EGRESS)
            self.allowed(Direction.INGRESS, redirected=True)
            return
        if self._leaves and self._source.pod == self._destination.pod:
            # Through its own service: no policy was asked, so none has a verdict.
            self.traced(Direction.INGRESS, _TO_ENDPOINT)
            return
        if self._sent_here and self._origin is None:
            self.allowed(Direction.EGRESS)
        if self._leaves and not self._arrives:
            self.traced(Direction.EGRESS, _TO_STACK)
        if self._ends_here and (self._origin is None or not self._origin.ingress_done):
            self.allowed(Direction.INGRESS)
        if self._arrives:
            self.traced(Direction.INGRESS, _TO_ENDPOINT)
        elif not self._leaves and label.at == "input":
            self.traced(Direction.INGRESS, _TO_HOST)
        elif not self._leaves and label.at == "output":
            self.traced(Direction.EGRESS, _TO_NETWORK)

    def allowed(self, direction: Direction, *, redirected: bool = False) -> None:
        """A policy-verdict event, where a policy is enforced at all."""
        ingress = direction is Direction.INGRESS
        subject, peer = (self._destination, self._source) if ingress else (self._source, self._destination)
        policy = self._snapshot.policy(subject, direction)
        if policy is None:
            return
        interval = deciding(policy, peer.flow.identity, self._five.protocol.number, self._five.destination_port)
        by = policies_of(interval)
        if policy.audit and (interval.decision if interval is not None else policy.default).denies:
            denied_by = {"ingress_denied_by" if ingress else "egress_denied_by": by}
            self._emit(direction, EventType.POLICY_VERDICT, verdict=FlowVerdict.AUDIT, is_reply=False, **denied_by)
            return
        self._emit(
            direction,
            EventType.POLICY_VERDICT,
            verdict=FlowVerdict.REDIRECTED if redirected else FlowVerdict.FORWARDED,
            proxy_port=self._proxy_port if redirected else 0,
            is_reply=False,
            ingress_allowed_by=by if ingress else (),
            egress_allowed_by=() if ingress else by,
        )

    def dropped(self, direction: Direction, reason: int) -> None:
        """A policy-verdict event and a drop event. Only a deny rule has a name: default deny is that no policy decided."""
        ingress = direction is Direction.INGRESS
        subject, peer = (self._destination, self._source) if ingress else (self._source, self._destination)
        policy = self._snapshot.policy(subject, direction)
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
                time=self._time,
                verdict=verdict,
                five_tuple=self._five,
                direction=direction,
                source=self._source.flow,
                destination=self._destination.flow,
                destination_names=self._destination.names,
                event_type=kind,
                node=self._node,
                tcp_flags=packet.flags,
                icmp_code=packet.icmp_code,
                uuid=maker.uuid(),
                **more,  # type: ignore[arg-type]  # fields of Flow, given by name just above
            )
        )
