"""Evidence in words."""

from __future__ import annotations

import pytest

from harness.model.flow import EventType, FiveTuple, Flow, FlowEndpoint, FlowVerdict, L7Record
from harness.model.traffic import Direction, Protocol
from harness.model.verdict import PolicyRef
from harness.reports.wording import flow_line, flow_lines, listed, milliseconds

TUPLE = FiveTuple(Protocol.TCP, "10.0.0.1", 40000, "10.0.0.2", 8080)
ENDS = {"source": FlowEndpoint(namespace="shop", pod="client"), "destination": FlowEndpoint(labels=("reserved:world",))}


@pytest.mark.parametrize(
    ("flow", "text"),
    [
        (Flow(0, FlowVerdict.FORWARDED, TUPLE, **ENDS), "FORWARDED shop/client:40000 -> reserved:world:8080"),
        (
            Flow(0, FlowVerdict.DROPPED, TUPLE, Direction.EGRESS, 181, egress_denied_by=(PolicyRef("NetworkPolicy", "shop", "no"),)),
            "DROPPED (a deny rule) at egress 10.0.0.1:40000 -> 10.0.0.2:8080 denied by NetworkPolicy/shop/no",
        ),
        (Flow(0, FlowVerdict.DROPPED, TUPLE, drop_reason=130), "DROPPED (drop reason 130) 10.0.0.1:40000 -> 10.0.0.2:8080"),
        (Flow(0, FlowVerdict.FORWARDED, TUPLE.reversed(), is_reply=True), "FORWARDED reply 10.0.0.2:8080 -> 10.0.0.1:40000"),
        (
            Flow(0, FlowVerdict.DROPPED, TUPLE, event_type=EventType.L7, l7=L7Record("http", 1, method="GET", url="/admin", code=403)),
            "DROPPED 10.0.0.1:40000 -> 10.0.0.2:8080 HTTP GET /admin 403",
        ),
    ],
    ids=["forwarded", "deny rule", "unknown reason", "reply", "http"],
)
def test_a_flow_is_one_line_with_verdict_reason_side_ends_and_decider(flow, text):
    assert flow_line(flow) == text


def test_equal_neighbours_are_told_once_with_their_number():
    drop, other = Flow(0, FlowVerdict.DROPPED, TUPLE, drop_reason=133), Flow(1, FlowVerdict.FORWARDED, TUPLE)
    lines = flow_lines([drop, drop, other, drop])
    assert [line.rpartition("8080")[2] for line in lines] == [" (x2)", "", ""]


@pytest.mark.parametrize(("seconds", "text"), [(0.0012, "1.2 ms"), (0.34, "340 ms"), (2.13, "2.1 s")])
def test_times_are_told_in_the_unit_people_read(seconds, text):
    assert milliseconds(seconds) == text


def test_long_lists_are_cut_with_the_number_of_the_rest():
    assert listed("abcdef", 4) == "a, b, c, d and 2 more"
    assert listed("ab") == "a, b"
