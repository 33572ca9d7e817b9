"""Which flow belongs to which probe."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from harness.hubble.convert import flow_to_proto
from harness.hubble.feed import raw_keys
from harness.hubble.match import Track, flow_key, forward, stops, touches
from harness.model.flow import EventType, FiveTuple, Flow, FlowEndpoint, FlowVerdict, L7Record, LostEvents
from harness.model.traffic import Direction, Protocol
from tests.hubble.flow_strategies import five_tuples, flows, quick
from tests.hubble.observing import make_flow

BOUND = FiveTuple(Protocol.TCP, "10.0.0.1", 40000, "10.0.0.2", 8080)
TRACK = Track.of(BOUND, 1000)
POD = FlowEndpoint(301, "shop", "db")
WORLD = FlowEndpoint(2, labels=("reserved:world",))


def flow(five_tuple: FiveTuple = BOUND, **changes) -> Flow:
    return make_flow(**{"five_tuple": five_tuple, "time": 1500} | changes)


def test_the_exact_tuple_in_the_window_is_the_probes_own():
    assert TRACK.owns(flow())
    assert TRACK.owns(flow(), ended=2000)


@pytest.mark.parametrize(
    "other",
    [
        replace(BOUND, protocol=Protocol.UDP),
        replace(BOUND, source="10.0.0.9"),
        replace(BOUND, source_port=40001),
        replace(BOUND, destination="10.0.0.9"),
        replace(BOUND, destination_port=80),
        BOUND.reversed(),
    ],
)
def test_any_other_tuple_is_not(other: FiveTuple):
    assert not TRACK.owns(flow(other))


def test_the_window_is_closed_at_both_ends_and_widened_by_the_skew():
    assert not TRACK.owns(flow(time=999))
    assert TRACK.owns(flow(time=999), skew=1)
    assert not TRACK.owns(flow(time=2001), ended=2000)
    assert TRACK.owns(flow(time=2001), ended=2000, skew=1)


def test_a_reply_is_not_the_probes_own_whichever_way_it_is_told():
    assert not TRACK.owns(flow(is_reply=True))
    assert not TRACK.owns(flow(BOUND.reversed(), is_reply=False))
    assert not TRACK.owns(flow(BOUND.reversed(), is_reply=True))


def test_a_services_flows_go_to_its_address_or_to_any_backend():
    service = Track.of(BOUND, 1000, [("10.0.0.7", 9090), ("10.0.0.8", 9090)])
    assert service.owns(flow())
    assert service.owns(flow(replace(BOUND, destination="10.0.0.8", destination_port=9090)))
    assert not service.owns(flow(replace(BOUND, destination="10.0.0.8")))
    assert not service.owns(flow(replace(BOUND, destination_port=9090)))


def test_addresses_are_compared_as_addresses_not_as_text():
    track = Track.of(FiveTuple(Protocol.UDP, "fd00:0::1", 5000, "FD00::2", 53), 0)
    assert track.owns(flow(FiveTuple(Protocol.UDP, "fd00::1", 5000, "fd00::2", 53)))


def test_icmp_is_matched_by_addresses_and_type():
    ping = FiveTuple(Protocol.ICMP, "10.0.0.1", 0, "10.0.0.2", 8)
    track = Track.of(ping, 0)
    assert track.owns(flow(ping))
    assert not track.owns(flow(replace(ping, destination_port=0)))
    assert not track.owns(flow(replace(ping, destination="10.0.0.3")))
    assert not track.owns(flow(replace(ping.reversed(), source_port=0, destination_port=0)))


def test_the_l7_record_of_an_answer_belongs_to_its_request_either_way_round():
    answer = L7Record("http", 2, code=403)
    assert TRACK.owns(flow(BOUND.reversed(), l7=answer, is_reply=True))
    assert TRACK.owns(flow(BOUND, l7=answer, is_reply=True))
    assert not TRACK.owns(flow(replace(BOUND, source_port=1).reversed(), l7=answer, is_reply=True))


@quick
@given(flows())
def test_keys_read_from_the_message_are_those_of_the_flow(one: Flow):
    # VRRP and IGMP are no probes' and have no key.
    if one.five_tuple.protocol in {Protocol.VRRP, Protocol.IGMP}:
        assert raw_keys(flow_to_proto(one)) == ()
        return
    if one.l7 is not None and one.is_reply and not one.five_tuple.protocol.has_ports:
        return  # no such record exists: only TCP and UDP go through proxies
    assert raw_keys(flow_to_proto(one)) == tuple(map(flow_key, forward(one)))


@settings(deadline=None)
@given(five_tuples(), five_tuples(), st.booleans())
def test_owning_implies_the_same_key(bound: FiveTuple, other: FiveTuple, reply: bool):
    one = flow(other, is_reply=reply)
    if Track.of(bound, 0).owns(one):
        assert flow_key(bound) in map(flow_key, forward(one))
        assert other == bound


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"direction": Direction.INGRESS}, True),
        ({"direction": Direction.EGRESS, "destination": POD}, False),  # the target's ingress is still to come
        ({"direction": Direction.EGRESS, "destination": WORLD}, True),
        ({"direction": Direction.INGRESS, "verdict": FlowVerdict.REDIRECTED}, True),
        ({"direction": Direction.INGRESS, "verdict": FlowVerdict.AUDIT}, True),
        ({"direction": Direction.INGRESS, "verdict": FlowVerdict.DROPPED}, False),
        ({"direction": Direction.INGRESS, "verdict": FlowVerdict.TRACED}, False),
        ({"direction": None}, False),
        ({"direction": Direction.INGRESS, "l7": L7Record("http", 1)}, False),
    ],
)
def test_the_final_hop(changes: dict, expected: bool):
    assert TRACK.final(flow(**changes)) is expected


def test_towards_a_service_address_is_not_the_final_hop():
    service = Track.of(BOUND, 0, [("203.0.113.9", 443)])
    egress = {"direction": Direction.EGRESS, "destination": WORLD}
    assert not service.final(flow(**egress))
    assert service.final(flow(replace(BOUND, destination="203.0.113.9", destination_port=443), **egress))


def test_an_awaited_side_has_to_speak_whichever_node_is_heard_first():
    passed = flow(direction=Direction.INGRESS, event_type=EventType.POLICY_VERDICT)
    verdict = flow(direction=Direction.EGRESS, event_type=EventType.POLICY_VERDICT)
    trace = flow(direction=Direction.EGRESS, event_type=EventType.TRACE)
    both = Track.of(BOUND, 0, awaited=frozenset(Direction))
    assert TRACK.complete([passed])
    assert not both.complete([passed])
    assert not both.complete([passed, trace])
    assert not both.complete([verdict])
    assert both.complete([passed, verdict])
    assert both.complete([verdict, passed])


def test_a_redirected_connection_is_complete_with_the_proxys_record():
    redirected = flow(verdict=FlowVerdict.REDIRECTED)
    request = flow(l7=L7Record("http", 1, method="GET"), event_type=129)
    answer = flow(BOUND.reversed(), l7=L7Record("http", 2, code=200), is_reply=True, event_type=129)
    assert not TRACK.complete([redirected])
    assert not TRACK.complete([redirected, request])
    assert TRACK.complete([redirected, request, answer])
    assert not TRACK.complete([request, answer])
    assert TRACK.complete([redirected, replace(request, verdict=FlowVerdict.DROPPED)])


def test_denial_by_the_sources_own_proxy_is_complete_without_the_target():
    egress = flow(verdict=FlowVerdict.REDIRECTED, direction=Direction.EGRESS)
    denied = flow(verdict=FlowVerdict.DROPPED, direction=Direction.EGRESS, l7=L7Record("http", 1))
    assert TRACK.complete([egress, denied])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"drop_reason": 133, "event_type": 1}, True),
        ({"drop_reason": 181, "event_type": 5}, True),
        ({"drop_reason": 0, "event_type": 5}, True),
        ({"drop_reason": 189, "event_type": 1}, False),  # authentication is under way
        ({"drop_reason": 151, "event_type": 1}, False),  # the datapath's own trouble, which a retry may get through
        ({"drop_reason": 133, "event_type": 5, "verdict": FlowVerdict.AUDIT}, False),
        ({"drop_reason": 0, "event_type": 129, "l7": L7Record("http", 1)}, False),
    ],
)
def test_only_a_drop_by_policy_ends_a_probe_early(changes: dict, expected: bool):
    assert stops(flow(**{"verdict": FlowVerdict.DROPPED} | changes)) is expected


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [(0, 0, True), (10, 19, False), (10, 20, True), (30, 40, True), (31, 40, False), (0, 19, False), (31, 0, False), (5, 50, True)],
)
def test_a_loss_touches_the_window_it_overlaps(first: int, last: int, expected: bool):
    assert touches(LostEvents(1, first=first, last=last), 20, 30) is expected
