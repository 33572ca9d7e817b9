"""Hypothesis strategies for flows and filters, shared by the tests of harness.hubble."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from harness.hubble.proto import flow_pb2
from harness.model.flow import FiveTuple, Flow, FlowEndpoint, FlowVerdict, L7Record, LostEvents
from harness.model.traffic import Direction, Protocol
from harness.model.verdict import PolicyRef

NAMES = st.sampled_from(["", "web", "web-1", "web-2", "db", "api"])
NAMESPACES = st.sampled_from(["", "default", "shop", "dev"])
LABELS = st.sampled_from(["k8s:app=web", "k8s:app=db", "k8s:tier=front", "reserved:host", "reserved:world", "cidr:10.0.0.0/8"])
IPV4 = st.sampled_from(["10.0.0.1", "10.0.1.2", "192.0.2.7", "203.0.113.10"])
IPV6 = st.sampled_from(["fd00::1", "fd00:1::2", "2001:db8::7"])
PORTS = st.integers(0, 65535)
UINT32 = st.integers(0, 2**32 - 1)
TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)
TIMES = st.integers(0, 4_102_444_800_000_000_000)
FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR", "NS")
ON_THE_WIRE = (Protocol.TCP, Protocol.UDP, Protocol.SCTP, Protocol.ICMP, Protocol.ICMPV6, Protocol.VRRP, Protocol.IGMP)
"""Protocols that Hubble has a layer 4 for."""

quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""For laws over whole flows, which are slow to make up, on machines that have other things to do: each run tries other ones."""


def few(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(strategy, max_size=3).map(tuple)


@st.composite
def five_tuples(draw: st.DrawFn) -> FiveTuple:
    protocol = draw(st.sampled_from(ON_THE_WIRE))
    addresses = IPV6 if protocol is Protocol.ICMPV6 else draw(st.sampled_from([IPV4, IPV6]))
    source_port = draw(PORTS) if protocol.has_ports else 0
    return FiveTuple(protocol, draw(addresses), source_port, draw(addresses), draw(PORTS if protocol.has_ports else st.integers(0, 255)))


ENDPOINTS = st.builds(
    FlowEndpoint,
    identity=UINT32,
    namespace=NAMESPACES,
    pod=NAMES,
    labels=few(LABELS),
    cluster=st.sampled_from(["", "default", "east"]),
    id=st.integers(0, 65535),
    workloads=few(st.tuples(st.sampled_from(["Deployment", "DaemonSet"]), NAMES)),
)
POLICIES = few(
    st.builds(
        PolicyRef, kind=st.sampled_from(["CiliumNetworkPolicy", "NetworkPolicy"]), namespace=NAMESPACES, name=st.sampled_from(["a", "b"])
    )
)
RECORDS = st.one_of(
    st.builds(
        L7Record,
        kind=st.just("http"),
        type=st.integers(0, 3),
        latency_ns=st.integers(0, 2**63),
        code=st.sampled_from([0, 200, 204, 403, 404, 503]),
        method=st.sampled_from(["", "GET", "POST"]),
        url=st.sampled_from(["", "http://api/v1?q=1", "/v1/users", "not a url"]),
        protocol=TEXT,
        headers=few(st.tuples(TEXT, TEXT)),
    ),
    st.builds(
        L7Record,
        kind=st.just("dns"),
        type=st.integers(0, 3),
        latency_ns=st.integers(0, 2**63),
        query=st.sampled_from(["", "kube-dns.", "api.stripe.com."]),
        rcode=st.integers(0, 15),
        ips=few(IPV4),
        qtypes=few(st.sampled_from(["A", "AAAA"])),
    ),
)


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    five = draw(five_tuples())
    flags = draw(st.sets(st.sampled_from(FLAGS))) if five.protocol is Protocol.TCP else set()
    return Flow(
        time=draw(TIMES),
        verdict=draw(st.sampled_from(FlowVerdict)),
        five_tuple=five,
        direction=draw(st.sampled_from([None, *Direction])),
        drop_reason=draw(st.sampled_from([0, 133, 181, 189, 207, 9999])),
        source=draw(ENDPOINTS),
        destination=draw(ENDPOINTS),
        event_type=draw(st.sampled_from([0, 1, 4, 5, 129])),
        sub_type=draw(st.integers(0, 200)),
        is_reply=draw(st.sampled_from([None, True, False])),
        node=draw(st.sampled_from(["", "a", "default/a", "east/b"])),
        policy_match_type=draw(st.integers(0, 6)),
        egress_allowed_by=draw(POLICIES),
        ingress_allowed_by=draw(POLICIES),
        egress_denied_by=draw(POLICIES),
        ingress_denied_by=draw(POLICIES),
        policy_log=draw(few(TEXT)),
        proxy_port=draw(PORTS),
        tcp_flags=tuple(flag for flag in FLAGS if flag in flags),
        l7=draw(st.one_of(st.none(), RECORDS)),
        uuid=draw(st.sampled_from(["", "5f9c"])),
        destination_service=draw(st.sampled_from(["", "shop/web", "web"])),
        source_service=draw(st.sampled_from(["", "shop/web"])),
        source_names=draw(few(st.sampled_from(["api.stripe.com", "example.com"]))),
        destination_names=draw(few(st.sampled_from(["api.stripe.com", "example.com"]))),
        encrypted=draw(st.booleans()),
        auth_type=draw(st.integers(0, 2)),
        trace_point=draw(st.sampled_from([0, 5, 101])),
        trace_reason=draw(st.integers(0, 4)),
        icmp_code=draw(st.integers(0, 15)) if five.protocol in {Protocol.ICMP, Protocol.ICMPV6} else 0,
    )


LOSSES = st.builds(
    LostEvents,
    count=st.integers(0, 2**63),
    source=st.sampled_from(["", "PERF_EVENT_RING_BUFFER", "OBSERVER_EVENTS_QUEUE", "HUBBLE_RING_BUFFER"]),
    first=TIMES,
    last=TIMES,
    node=st.sampled_from(["", "default/a"]),
)


@st.composite
def filters(draw: st.DrawFn) -> flow_pb2.FlowFilter:
    """A filter with up to three fields, each with values that some flows have."""
    values = {
        "source_ip": st.one_of(IPV4, IPV6, st.sampled_from(["10.0.0.0/8", "fd00::/16"])),
        "destination_ip": st.one_of(IPV4, st.just("0.0.0.0/0")),
        "source_pod": st.sampled_from(["shop/", "/web", "shop/web-", "web"]),
        "destination_pod": st.sampled_from(["dev/", "default/db"]),
        "source_label": st.sampled_from(["app=web", "k8s:app in (web, db)", "!tier", "reserved:host"]),
        "verdict": st.sampled_from(FlowVerdict).map(int),
        "protocol": st.sampled_from(["tcp", "udp", "icmp", "dns", "http"]),
        "destination_port": st.sampled_from(["80", "443"]),
        "reply": st.booleans(),
        "traffic_direction": st.sampled_from([1, 2]),
        "drop_reason_desc": st.sampled_from([133, 181]),
        "node_name": st.sampled_from(["a", "east/", "default/*"]),
        "ip_version": st.sampled_from([1, 2]),
        "source_fqdn": st.sampled_from(["*.com", "api.stripe.com"]),
        "http_status_code": st.sampled_from(["2+", "403", "40+"]),
        "dns_query": st.sampled_from(["stripe", "^kube"]),
    }
    names = draw(st.sets(st.sampled_from(sorted(values)), max_size=3))
    return flow_pb2.FlowFilter(**{name: draw(st.lists(values[name], min_size=1, max_size=2)) for name in names})
