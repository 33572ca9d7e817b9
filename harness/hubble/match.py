"""Which flow belongs to which probe (design 4, "Whose flow"). Pure: no stream, no clock.

A flow is a probe's own if protocol, source address and source port are the probe's, the destination is one that the probe could
reach (what it dials, or a backend behind it), and its time is within the probe's window. ICMP: both addresses and the type. Replies
are not the probe's own, with one exception: the L7 record of a response belongs to its request, whichever way round it is written.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias

from msgspec import Struct

from harness.model.flow import DropReason, EventType, FiveTuple, Flow, FlowVerdict, LostEvents
from harness.model.traffic import Direction, Protocol

FlowKey: TypeAlias = tuple[Protocol, str, int, str, int]
"""What flows are found by: protocol, source address, source port; for ICMP also destination and type (else '' and 0)."""

POLICY_DROPS = frozenset({DropReason.POLICY_DENIED, DropReason.POLICY_DENY})
"""Drops that no retry gets through. AUTH_REQUIRED is none of them: it is dropped only until the handshake is done."""
L7_RESPONSE = 2
_L4_EVENTS = frozenset({EventType.DROP, EventType.POLICY_VERDICT, EventType.TRACE, EventType.UNKNOWN})
_PASSED = frozenset({FlowVerdict.FORWARDED, FlowVerdict.REDIRECTED, FlowVerdict.TRANSLATED, FlowVerdict.AUDIT})


def canonical(address: str) -> str:
    """An address in its one canonical spelling, so that text can be compared. IPv4 has only one."""
    return _canonical6(address) if ":" in address else address


@lru_cache(maxsize=16384)
def _canonical6(address: str) -> str:
    return str(ipaddress.IPv6Address(address))


def flow_key(five_tuple: FiveTuple) -> FlowKey:
    """The key of a packet in its own direction."""
    protocol = five_tuple.protocol
    if protocol.has_ports:
        return (protocol, canonical(five_tuple.source), five_tuple.source_port, "", 0)
    return (protocol, canonical(five_tuple.source), 0, canonical(five_tuple.destination), five_tuple.destination_port)


class Track(Struct, frozen=True, gc=False):
    """How to recognise the flows of one probe. `destinations` are (address, port) in canonical spelling: what is dialled, then each
    backend it may be translated to. For ICMP the port is the type. Times are nanoseconds since the epoch."""

    bound: FiveTuple
    key: FlowKey
    destinations: frozenset[tuple[str, int]]
    started: int
    awaited: frozenset[Direction] = frozenset()
    legible: bool = True

    @classmethod
    def of(
        cls,
        bound: FiveTuple,
        started: int,
        alternatives: Iterable[tuple[str, int]] = (),
        awaited: frozenset[Direction] = frozenset(),
        *,
        legible: bool = True,
    ) -> Track:
        """`bound` is what the client's socket is bound to and dials; `alternatives` are where a service may send it; `awaited` the sides
        whose policy verdict has to be there; `legible`: a proxy can read what is said, and so has a record of it."""
        destinations = {(canonical(bound.destination), bound.destination_port)}
        destinations.update((canonical(address), port) for address, port in alternatives)
        return cls(bound, flow_key(bound), frozenset(destinations), started, awaited, legible)

    def owns(self, flow: Flow, *, ended: int | None = None, skew: int = 0) -> bool:
        """Whether the flow is this probe's own. `ended` is None while the probe is under way; `skew` allows for clocks apart (ns)."""
        if flow.time < self.started - skew or (ended is not None and flow.time > ended + skew):
            return False
        return any(
            flow_key(five) == self.key and (canonical(five.destination), five.destination_port) in self.destinations
            for five in forward(flow)
        )

    def final(self, flow: Flow) -> bool:
        """Whether this flow of the probe shows it passed at the last place where policy is asked: at the target's ingress, or at the
        source's egress where the target is no pod."""
        if flow.verdict not in _PASSED or flow.is_l7:
            return False
        if flow.direction is Direction.INGRESS:
            return True
        if flow.direction is not Direction.EGRESS or flow.destination.pod:
            return False
        # Towards a service's own address this is only the way to the backend.
        dialled = (canonical(self.bound.destination), self.bound.destination_port)
        return len(self.destinations) == 1 or (canonical(flow.five_tuple.destination), flow.five_tuple.destination_port) != dialled

    def complete(self, flows: Sequence[Flow]) -> bool:
        """Whether these flows of an answered probe are all that is to come: it passed the last place, and where a proxy took it, the
        proxy's record of the answer is there too; or a proxy denied it. The source's node may tell later than the target's, so passing
        the last place does not mean that the awaited sides have spoken."""
        redirected, recorded, told, passed = set(), set(), set(), False
        for flow in flows:
            if flow.is_l7 and flow.dropped:
                return True
            if flow.l7 is None:
                passed = passed or self.final(flow)
                if flow.event_type == EventType.POLICY_VERDICT:
                    told.add(flow.direction)
                if flow.verdict is FlowVerdict.REDIRECTED:
                    redirected.add(flow.direction)
            elif flow.l7.type == L7_RESPONSE:
                recorded.add(flow.direction)
        return passed and (not self.legible or redirected <= recorded) and self.awaited <= told


def forward(flow: Flow) -> tuple[FiveTuple, ...]:
    """The tuple in the direction of the request; none for the flow of a reply. The L7 record of a response is written server first by
    some versions and client first by others, so both count."""
    if not flow.is_reply:
        return (flow.five_tuple,)
    return () if flow.l7 is None else (flow.five_tuple, flow.five_tuple.reversed())


def stops(flow: Flow) -> bool:
    """Whether this drop ends a probe early: a packet dropped by policy. Not an L7 denial, which the client is told itself; not a drop
    that a retransmission may get through (AUTH_REQUIRED, the datapath's own reasons)."""
    if flow.verdict is not FlowVerdict.DROPPED or flow.l7 is not None or flow.event_type not in _L4_EVENTS:
        return False
    return flow.drop_reason in POLICY_DROPS or not flow.drop_reason


def explained(flows: Iterable[Flow]) -> bool:
    """Whether a drop among these tells which policy did it, or has none to tell, since no policy allowed it. An agent tells a drop twice,
    and only one of the two names the policy."""
    return any(
        flow.dropped and (flow.drop_reason == DropReason.POLICY_DENIED or flow.egress_denied_by or flow.ingress_denied_by) for flow in flows
    )


def touches(lost: LostEvents, started: int, ended: int) -> bool:
    """Whether the loss may hide flows of the window (ns). A loss that does not say when touches every window."""
    return (not lost.last or lost.last >= started) and (not lost.first or lost.first <= ended)
