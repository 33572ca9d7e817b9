"""Flows as people read them. That real clients print the same is tested where there is a lab (tests/lab/test_exploring.py)."""

from __future__ import annotations

from hypothesis import given

from harness.hubble.compact import line
from harness.model.flow import FiveTuple, FlowEndpoint, FlowVerdict, L7Record, LostEvents
from harness.model.traffic import Direction, Protocol
from harness.model.verdict import PolicyRef
from tests.hubble.flow_strategies import flows, quick
from tests.hubble.observing import make_flow

AT = 1_700_000_000_123_456_789
WORLD = FlowEndpoint(2, labels=("reserved:world",))


def test_an_allowed_connection_says_by_whom():
    flow = make_flow(time=AT, policy_match_type=2, ingress_allowed_by=(PolicyRef("CiliumNetworkPolicy", "shop", "db"),), tcp_flags=("SYN",))
    assert line(flow) == (
        "Nov 14 22:13:20.123: shop/web:40000 (ID:300) -> shop/db:8080 (ID:301) "
        "policy-verdict:L3-L4 INGRESS ALLOWED BY db (CiliumNetworkPolicy) (TCP Flags: SYN)"
    )


def test_a_drop_says_why_and_an_unknown_direction_shows():
    flow = make_flow(time=AT, verdict=FlowVerdict.DROPPED, event_type=1, sub_type=181, is_reply=None)
    assert line(flow).endswith("shop/web:40000 (ID:300) <> shop/db:8080 (ID:301) Policy denied by denylist DROPPED (TCP)")


def test_replies_are_written_the_other_way_round():
    assert "shop/db:8080 (ID:301) <- shop/web:40000 (ID:300) to-endpoint FORWARDED" in line(make_flow(event_type=4, is_reply=True))


def test_addresses_stand_for_what_has_no_name():
    ping = make_flow(
        five_tuple=FiveTuple(Protocol.ICMPV6, "fd00::1", 0, "2001:db8::7", 128),
        destination=WORLD,
        event_type=4,
        sub_type=3,
        direction=Direction.EGRESS,
    )
    assert "-> 2001:db8::7 (world) to-stack FORWARDED (ICMPv6 type 128)" in line(ping)
    named = make_flow(destination=WORLD, destination_names=("api.stripe.com",))
    assert "-> api.stripe.com:8080 (world) " in line(named)
    six = make_flow(five_tuple=FiveTuple(Protocol.TCP, "fd00::1", 40000, "2001:db8::7", 443), destination=WORLD)
    assert "-> [2001:db8::7]:443 (world) " in line(six)


def test_requests_and_answers_above_layer_4():
    request = make_flow(event_type=129, l7=L7Record("http", 1, method="GET", url="http://db/users", protocol="HTTP/1.1"))
    assert line(request).endswith("http-request FORWARDED (HTTP/1.1 GET http://db/users)")
    answer = make_flow(event_type=129, is_reply=True, l7=L7Record("http", 2, 1_500_000, 403, "GET", "http://db/users", "HTTP/1.1"))
    assert line(answer).endswith("http-response FORWARDED (HTTP/1.1 GET http://db/users 403 1.500ms)")


def test_losses_are_not_overlooked():
    assert line(LostEvents(9, "HUBBLE_RING_BUFFER")) == "EVENTS LOST: HUBBLE_RING_BUFFER 9"


def test_what_others_wrote_does_not_command_the_terminal():
    flow = make_flow(event_type=129, l7=L7Record("http", 1, method="GET", url="http://db/\x1b[2J\n", protocol="HTTP/1.1"))
    assert line(flow).isprintable()


@quick
@given(flows())
def test_every_flow_is_one_line(flow):
    assert "\n" not in line(flow)
    assert line(flow).isprintable()
