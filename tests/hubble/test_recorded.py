"""Saved flows come back as they were, and nothing is left out silently."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import FlowFileError
from harness.hubble.convert import to_json
from harness.hubble.recorded import read_flows
from tests.hubble.flow_strategies import LOSSES, flows, quick
from tests.hubble.observing import make_flow

FLOW = make_flow()
NODE_STATUS = {"node_status": {"state_change": "NODE_CONNECTED", "node_names": ["a"]}, "node_name": "a"}


@quick
@given(st.lists(st.one_of(flows(), LOSSES), max_size=4))
def test_what_was_saved_is_read_back(events):
    assert list(read_flows([json.dumps(to_json(each)) for each in events], "f")) == events


def test_a_flow_by_itself_is_one_too_and_node_status_is_none():
    lines = [json.dumps(to_json(FLOW)["flow"]), "", json.dumps(NODE_STATUS), "  \n"]
    assert list(read_flows(lines, "f")) == [FLOW]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"flow": {"verdict": "FORW', "flows.json:2: not JSON"),
        ("[]", "flows.json:2: not a flow: it is no JSON object"),
        ("{", "flows.json:2: not JSON"),
        ("{}", "flows.json:2: not a flow: an object with nothing"),
        ('{"agent_event": {}}', "flows.json:2: not a flow: an object with agent_event"),
        ('{"flow": {"time": "yesterday"}}', "flows.json:2: not a Hubble flow"),
        ('{"flow": 3}', "flows.json:2: not a Hubble flow"),
    ],
)
def test_anything_else_is_an_error_with_its_line(line, said):
    good = json.dumps(to_json(FLOW))
    with pytest.raises(FlowFileError) as caught:
        list(read_flows([good, line, good], "flows.json"))
    assert str(caught.value).startswith(said)
    assert caught.value.hint
