"""Messages and JSON say what the values say, both ways."""

from __future__ import annotations

import json
import re

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.hubble.convert import event_of, flow_of, flow_to_proto, from_json, response_to_proto, to_json
from harness.hubble.proto import flow_pb2, observer_pb2
from harness.model.flow import FiveTuple, Flow, FlowVerdict, LostEvents
from harness.model.traffic import Protocol
from tests.hubble.flow_strategies import LOSSES, flows, quick

# As `hubble observe -o json` of Cilium 1.19 prints a dropped packet.
PRINTED = """{"flow":{"time":"2026-03-01T10:20:30.123456789Z","uuid":"0c6c2c9e-5f2c-4a44-8a4b-4d1b8f2c5a11","verdict":"DROPPED","drop_reason":133,
"ethernet":{"source":"9a:2d:8f:ad:3a:41","destination":"26:d4:a2:7a:1f:33"},
"IP":{"source":"10.244.1.23","destination":"10.244.2.7","ipVersion":"IPv4"},
"l4":{"TCP":{"source_port":41234,"destination_port":8080,"flags":{"SYN":true}}},
"source":{"ID":1873,"identity":33187,"cluster_name":"default","namespace":"shop","labels":["k8s:app=frontend","k8s:io.kubernetes.pod.namespace=shop"],
"pod_name":"frontend","workloads":[{"name":"frontend","kind":"Deployment"}]},
"destination":{"ID":99,"identity":40111,"cluster_name":"default","namespace":"shop","labels":["k8s:app=backend"],"pod_name":"backend"},
"Type":"L3_L4","node_name":"default/kind-worker2","node_labels":["kubernetes.io/os=linux"],"event_type":{"type":5},
"traffic_direction":"INGRESS","drop_reason_desc":"POLICY_DENIED","is_reply":false,"file":{"name":"bpf_lxc.c","line":1},
"policy_match_type":0,"Summary":"TCP Flags: SYN"},"node_name":"default/kind-worker2","time":"2026-03-01T10:20:30.123456789Z"}"""


@quick
@given(flows())
def test_a_flow_survives_the_wire(flow: Flow):
    assert flow_of(flow_pb2.Flow.FromString(flow_to_proto(flow).SerializeToString())) == flow


@quick
@given(st.one_of(flows(), LOSSES))
def test_an_event_survives_json(event: Flow | LostEvents):
    assert from_json(json.dumps(to_json(event))) == event


@quick
@given(flows())
def test_json_may_be_lower_camel_case(flow: Flow):
    camel = json_format.MessageToDict(response_to_proto(flow))
    assert from_json(camel) == flow


@quick
@given(flows())
def test_json_may_be_a_flow_without_its_envelope(flow: Flow):
    assert from_json(to_json(flow)["flow"]) == flow


@settings(deadline=None)
@given(LOSSES)
def test_lost_events_survive_the_wire(lost: LostEvents):
    assert event_of(observer_pb2.GetFlowsResponse.FromString(response_to_proto(lost).SerializeToString())) == lost


def test_what_the_hubble_client_prints_is_read():
    flow = from_json(PRINTED)
    assert isinstance(flow, Flow)
    assert flow.five_tuple == FiveTuple(Protocol.TCP, "10.244.1.23", 41234, "10.244.2.7", 8080)
    assert (flow.verdict, flow.drop_reason, flow.node) == (FlowVerdict.DROPPED, 133, "default/kind-worker2")
    assert flow.time % 1_000_000_000 == 123_456_789
    assert (flow.source.identity, flow.source.pod, flow.source.workloads) == (33187, "frontend", (("Deployment", "frontend"),))
    assert flow.tcp_flags == ("SYN",)


def test_json_has_hubbles_spelling():
    flow = from_json(PRINTED)
    assert flow is not None
    printed = json.loads(PRINTED)["flow"]
    ours = to_json(flow)["flow"]
    told_by_nobody = {"ethernet", "file", "node_labels", "Summary"}
    # protojson leaves zero values out; the sample keeps one to show that reading takes it.
    assert ours == {key: value for key, value in printed.items() if key not in told_by_nobody | {"policy_match_type"}}


def test_json_of_another_kind_is_refused():
    for text in ("[1]", '{"flow": 3}', '{"flow": {"time": "yesterday"}}'):
        with pytest.raises(ValueError, match=r"flow"):
            from_json(text)


def test_node_status_and_flows_without_a_layer_4_are_no_events():
    assert from_json('{"node_status": {"state_change": "NODE_CONNECTED", "node_names": ["a"]}}') is None
    assert flow_of(flow_pb2.Flow(IP=flow_pb2.IP(source="10.0.0.1", destination="10.0.0.2"))) is None
    assert flow_of(flow_pb2.Flow(l4=flow_pb2.Layer4(TCP=flow_pb2.TCP(source_port=1)))) is None


def test_a_protocol_that_hubble_has_no_layer_4_for_is_sent_without():
    flow = Flow(1, FlowVerdict.DROPPED, FiveTuple(Protocol.GRE, "10.0.0.1", 0, "10.0.0.2", 0))
    assert not flow_to_proto(flow).HasField("l4")


def test_unknown_fields_pass_through_a_message():
    known = flow_to_proto(Flow(1, FlowVerdict.DROPPED, FiveTuple(Protocol.TCP, "10.0.0.1", 1, "10.0.0.2", 2))).SerializeToString()
    aggregate = b"\xfa\xa0\x0a\x02\x08\x05"  # field 21007, {1: 5}
    assert re.search(re.escape(aggregate), flow_pb2.Flow.FromString(known + aggregate).SerializeToString())


def test_endpoints_are_not_mixed_up_by_the_cache():
    one = Flow(1, FlowVerdict.FORWARDED, FiveTuple(Protocol.UDP, "10.0.0.1", 1, "10.0.0.2", 2))
    message = flow_to_proto(one)
    message.source.pod_name = "changed"
    assert flow_to_proto(one).source.pod_name == ""
