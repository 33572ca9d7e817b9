"""The generated messages: current, Cilium's numbers, and no obstacle to Cilium's own files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.hubble.proto import SERVICE, flow_pb2, observer_pb2

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("harness/hubble/proto")


def test_generated_code_is_current(tmp_path: Path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is missing; `make dev` installs it")
    subprocess.run([sys.executable, ROOT / "ci/generate-proto", tmp_path], check=True, cwd=ROOT)
    generated = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2.py*"))
    committed = sorted(path.relative_to(ROOT) for path in (ROOT / FOLDER).glob("*_pb2.py*"))
    assert generated == committed
    for path in generated:
        assert (tmp_path / path).read_text() == (ROOT / path).read_text(), f"{path} is stale: run ci/generate-proto"


def test_numbers_are_ciliums():
    flow = {field.name: field.number for field in flow_pb2.Flow.DESCRIPTOR.fields}
    assert {name: flow[name] for name in ("IP", "l4", "Type", "l7", "is_reply", "uuid", "egress_allowed_by", "ingress_denied_by", "policy_log")} == {
        "IP": 5, "l4": 6, "Type": 10, "l7": 15, "is_reply": 26, "uuid": 34, "egress_allowed_by": 21001, "ingress_denied_by": 21005, "policy_log": 21006,
    }  # fmt: skip
    request = {field.name: field.number for field in observer_pb2.GetFlowsRequest.DESCRIPTOR.fields}
    assert request == {
        "number": 1, "follow": 3, "blacklist": 5, "whitelist": 6, "since": 7, "until": 8, "first": 9, "field_mask": 10,
        "experimental": 999, "extensions": 150000,
    }  # fmt: skip
    filter_numbers = sorted(field.number for field in flow_pb2.FlowFilter.DESCRIPTOR.fields)
    assert filter_numbers == [*range(1, 41), 999]
    assert observer_pb2.DESCRIPTOR.services_by_name["Observer"].full_name == SERVICE


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_ciliums_own_generated_files_load_beside_ours(first: str):
    """Their names (`flow.Flow`) are ours too; one pool could not hold both."""
    theirs = """
from google.protobuf import descriptor_pb2, descriptor_pool
file = descriptor_pb2.FileDescriptorProto(name="flow/flow.proto", package="flow", syntax="proto3")
file.message_type.add(name="Flow")
descriptor_pool.Default().Add(file)
assert descriptor_pool.Default().FindMessageTypeByName("flow.Flow")
"""
    ours = "\nfrom harness.hubble.proto import observer_pb2; observer_pb2.GetFlowsResponse().flow.IP.source = '10.0.0.1'\n"
    program = ours + theirs if first == "ours" else theirs + ours
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
