"""Field masks keep what was asked for, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.hubble.convert import flow_to_proto
from harness.hubble.mask import compile_mask
from harness.hubble.proto import flow_pb2
from harness.model.flow import Flow
from tests.hubble.flow_strategies import flows, quick

PATHS = st.sets(
    st.sampled_from([
        "time",
        "verdict",
        "source",
        "source.pod_name",
        "destination.labels",
        "l4",
        "l4.TCP.flags",
        "IP.source",
        "policy_log",
    ]),
    min_size=1,
)


@quick
@given(flows(), PATHS)
def test_masking_twice_is_masking_once(flow: Flow, paths: set[str]):
    mask = compile_mask(paths)
    assert mask is not None
    once = mask(flow_to_proto(flow))
    assert mask(once) == once


@quick
@given(flows(), PATHS)
def test_a_masked_flow_says_nothing_else_than_the_flow(flow: Flow, paths: set[str]):
    mask = compile_mask(paths)
    assert mask is not None
    message = flow_to_proto(flow)
    masked = mask(message)
    top = {path.split(".")[0] for path in paths}
    assert {field.name for field, _ in masked.ListFields()} <= top
    for path in paths:
        ours, theirs = masked, message
        for name in path.split("."):
            ours, theirs = getattr(ours, name), getattr(theirs, name)
        assert ours == theirs


def test_the_whole_message_wins_over_a_part_in_either_order():
    flow = flow_pb2.Flow(source=flow_pb2.Endpoint(pod_name="web", namespace="shop"))
    for paths in (["source", "source.pod_name"], ["source.pod_name", "source"]):
        mask = compile_mask(paths)
        assert mask is not None
        assert mask(flow).source.namespace == "shop"


def test_no_paths_are_no_mask():
    assert compile_mask([]) is None


@pytest.mark.parametrize("path", ["", "nothing", "source.nothing", "verdict.x", "source.labels.x", "source."])
def test_a_path_that_a_flow_does_not_have_is_refused(path: str):
    with pytest.raises(ValueError, match="invalid field mask"):
        compile_mask([path])
