"""Filters behave as Cilium's (pkg/hubble/filters)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.hubble.convert import flow_to_proto
from harness.hubble.filters import FilterError, compile_filter, compile_filters
from harness.hubble.proto import flow_pb2
from harness.model.flow import Flow
from tests.hubble.flow_strategies import filters, flows, quick

FLOW = flow_pb2.Flow(
    verdict=flow_pb2.DROPPED,
    drop_reason_desc=flow_pb2.POLICY_DENIED,
    IP=flow_pb2.IP(source="10.0.0.1", destination="fd00::2", ipVersion=flow_pb2.IPv4),
    l4=flow_pb2.Layer4(TCP=flow_pb2.TCP(source_port=40000, destination_port=443, flags=flow_pb2.TCPFlags(SYN=True, ACK=True))),
    source=flow_pb2.Endpoint(
        identity=300,
        namespace="shop",
        pod_name="web-7f9c",
        labels=["k8s:app=web", "k8s:tier=front"],
        cluster_name="east",
        workloads=[flow_pb2.Workload(kind="Deployment", name="web")],
    ),
    destination=flow_pb2.Endpoint(identity=2, labels=["reserved:world"]),
    destination_names=["api.stripe.com"],
    destination_service=flow_pb2.Service(namespace="shop", name="payments"),
    node_name="kind-worker",
    event_type=flow_pb2.CiliumEventType(type=5, sub_type=1),
    traffic_direction=flow_pb2.EGRESS,
    uuid="u-1",
    node_labels=["zone=a"],
    interface=flow_pb2.NetworkInterface(index=3, name="eth0"),
)
HTTP = flow_pb2.Flow(
    event_type=flow_pb2.CiliumEventType(type=129),
    l7=flow_pb2.Layer7(
        http=flow_pb2.HTTP(code=403, method="GET", url="http://api/v1/users?x=1", headers=[flow_pb2.HTTPHeader(key="X-A", value="1")])
    ),
)
DNS = flow_pb2.Flow(l7=flow_pb2.Layer7(dns=flow_pb2.DNS(query="api.stripe.com.")), source=flow_pb2.Endpoint())


def matches(flow: flow_pb2.Flow, **fields: Any) -> bool:
    return compile_filter(flow_pb2.FlowFilter(**fields))(flow)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"source_ip": ["10.0.0.1"]}, True),
        ({"source_ip": ["10.0.0.2", "10.0.0.1"]}, True),
        ({"source_ip": ["10.0.0.0/24"]}, True),
        ({"source_ip": ["10.0.0.9/24"]}, True),
        ({"source_ip": ["192.0.2.0/24"]}, False),
        ({"source_ip": ["fd00::/8"]}, False),
        ({"destination_ip": ["fd00::/8"]}, True),
        ({"source_pod": ["shop/web"]}, True),
        ({"source_pod": ["shop/"]}, True),
        ({"source_pod": ["/web"]}, True),
        ({"source_pod": ["web"]}, False),  # without a slash the namespace is "default"
        ({"source_pod": ["shop/db"]}, False),
        ({"destination_pod": ["/"]}, False),  # the destination is no pod
        ({"destination_service": ["shop/pay"]}, True),
        ({"destination_service": ["dev/pay"]}, False),
        ({"source_label": ["app=web"]}, True),
        ({"source_label": ["app=db", "k8s:tier in (front)"]}, True),
        ({"source_label": ["app=db"]}, False),
        ({"destination_label": ["reserved:world"]}, True),
        ({"node_labels": ["zone=a"]}, True),
        ({"source_workload": [flow_pb2.Workload(kind="Deployment")]}, True),
        ({"source_workload": [flow_pb2.Workload(name="web", kind="DaemonSet")]}, False),
        ({"source_cluster_name": ["east"]}, True),
        ({"source_identity": [300]}, True),
        ({"destination_identity": [300]}, False),
        ({"verdict": [1, 2]}, True),
        ({"verdict": [1]}, False),
        ({"drop_reason_desc": [133]}, True),
        ({"drop_reason_desc": [181]}, False),
        ({"event_type": [flow_pb2.EventTypeFilter(type=5)]}, True),
        ({"event_type": [flow_pb2.EventTypeFilter(type=5, match_sub_type=True)]}, False),
        ({"event_type": [flow_pb2.EventTypeFilter(type=5, match_sub_type=True, sub_type=1)]}, True),
        ({"event_type": [flow_pb2.EventTypeFilter(type=1)]}, False),
        ({"protocol": ["TCP"]}, True),
        ({"protocol": ["udp", "icmp"]}, False),
        ({"source_port": ["40000"]}, True),
        ({"destination_port": ["80", "443"]}, True),
        ({"destination_port": ["80"]}, False),
        ({"tcp_flags": [flow_pb2.TCPFlags(SYN=True)]}, True),
        ({"tcp_flags": [flow_pb2.TCPFlags(SYN=True, FIN=True)]}, False),
        ({"reply": [False]}, True),  # a drop that does not say counts as no reply
        ({"reply": [True]}, False),
        ({"traffic_direction": [2]}, True),
        ({"traffic_direction": [1]}, False),
        ({"destination_fqdn": ["*.stripe.com"]}, True),
        ({"destination_fqdn": ["stripe.com"]}, False),
        ({"node_name": ["kind-*"]}, True),
        ({"node_name": ["default/"]}, True),
        ({"node_name": ["east/"]}, False),
        ({"ip_version": [1]}, True),
        ({"uuid": ["u-1"]}, True),
        ({"uuid": ["u-2"]}, False),
        ({"interface": [flow_pb2.NetworkInterface(name="eth0")]}, True),
        ({"interface": [flow_pb2.NetworkInterface(index=4)]}, False),
        ({"encrypted": [False]}, True),
        ({"encrypted": [True]}, False),
        ({"dns_query": ["stripe"]}, False),
        ({"http_status_code": ["4+"]}, False),
        ({"verdict": [2], "source_pod": ["shop/"], "destination_port": ["443"]}, True),
        ({"verdict": [2], "source_pod": ["shop/"], "destination_port": ["80"]}, False),
    ],
)
def test_fields_of_a_filter_must_all_match_and_values_are_alternatives(fields: dict[str, Any], expected: bool):
    assert matches(FLOW, **fields) is expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"http_status_code": ["403"]}, True),
        ({"http_status_code": ["4+"]}, True),
        ({"http_status_code": ["40+"]}, True),
        ({"http_status_code": ["5+", "200"]}, False),
        ({"http_method": ["get"]}, True),
        ({"http_path": ["^/v1/"]}, True),
        ({"http_path": ["x=1"]}, False),
        ({"http_url": ["x=1"]}, True),
        ({"http_header": [flow_pb2.HTTPHeader(key="X-A", value="1")]}, True),
        ({"http_header": [flow_pb2.HTTPHeader(key="X-A")]}, False),
        ({"protocol": ["http"]}, True),
        ({"event_type": [flow_pb2.EventTypeFilter(type=129)], "http_method": ["GET"]}, True),
    ],
)
def test_http_records_are_filtered_by_what_they_say(fields: dict[str, Any], expected: bool):
    assert matches(HTTP, **fields) is expected


def test_dns_queries_are_matched_by_re2():
    assert matches(DNS, dns_query=[r"stripe\.com"])
    assert not matches(DNS, dns_query=["^stripe"])
    assert matches(DNS, protocol=["dns"])


def test_a_flow_that_is_no_drop_and_does_not_say_is_neither_reply_nor_none():
    forwarded = flow_pb2.Flow(verdict=flow_pb2.FORWARDED)
    assert not matches(forwarded, reply=[True])
    assert not matches(forwarded, reply=[False])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source_ip": ["10.0.0.256"]}, "invalid IP address"),
        ({"source_ip": ["10.0.0.0/33"]}, "invalid CIDR"),
        ({"source_port": ["http"]}, "invalid port"),
        ({"source_port": ["65536"]}, "invalid port"),
        ({"source_pod": [""]}, "must not be empty"),
        ({"source_cluster_name": [""]}, "must not be empty"),
        ({"protocol": ["kafka"]}, "unknown protocol"),
        ({"http_status_code": ["4xx"]}, "invalid status code prefix"),
        ({"http_status_code": ["+"]}, "invalid status code prefix"),
        ({"http_method": ["GET"], "event_type": [flow_pb2.EventTypeFilter(type=1)]}, "to only match 'l7' events"),
        ({"dns_query": ["("]}, "invalid DNS query filter"),
        ({"source_label": ["a in b"]}, "invalid source label filter"),
        ({"node_name": ["a/b/c"]}, "too many slashes"),
        ({"node_name": ["a.."]}, "trailing dots"),
        ({"destination_fqdn": ["a$"]}, "invalid rune"),
        ({"experimental": flow_pb2.FlowFilter.Experimental(cel_expression=["true"])}, "not supported"),
    ],
)
def test_a_filter_that_hubble_refuses_is_refused(fields: dict[str, Any], message: str):
    with pytest.raises(FilterError, match=message):
        compile_filter(flow_pb2.FlowFilter(**fields))


def wanted(flow: Flow, white: list[flow_pb2.FlowFilter], black: list[flow_pb2.FlowFilter]) -> bool:
    predicate = compile_filters(white, black)
    return predicate is None or predicate(flow_to_proto(flow))


SOME = st.lists(filters(), max_size=2)


@quick
@given(flows(), SOME, SOME, filters())
def test_another_whitelist_filter_only_adds(flow: Flow, white: list, black: list, more: flow_pb2.FlowFilter):
    if white and wanted(flow, white, black):
        assert wanted(flow, [*white, more], black)


@quick
@given(flows(), SOME, SOME, filters())
def test_another_blacklist_filter_only_takes_away(flow: Flow, white: list, black: list, more: flow_pb2.FlowFilter):
    if wanted(flow, white, [*black, more]):
        assert wanted(flow, white, black)


@quick
@given(flows(), filters())
def test_what_a_filter_matches_the_same_blacklist_takes_away(flow: Flow, one: flow_pb2.FlowFilter):
    assert not wanted(flow, [one], [one])
    assert wanted(flow, [one], []) is not wanted(flow, [], [one])


@quick
@given(flows(), filters(), filters())
def test_merging_two_filters_narrows_to_both(flow: Flow, one: flow_pb2.FlowFilter, other: flow_pb2.FlowFilter):
    names = {field.name for field, _ in one.ListFields()}
    if any(field.name in names for field, _ in other.ListFields()):
        return  # the same field twice is a wider choice, not a narrower one
    both = flow_pb2.FlowFilter()
    both.MergeFrom(one)
    both.MergeFrom(other)
    message = flow_to_proto(flow)
    assert compile_filter(both)(message) is (compile_filter(one)(message) and compile_filter(other)(message))


def test_every_field_of_ciliums_filter_is_understood_but_cel():
    from harness.hubble.filters import _BUILDERS

    assert {field.name for field in flow_pb2.FlowFilter.DESCRIPTOR.fields} - set(_BUILDERS) == {"experimental"}
