"""What recorded flows tell of a cluster."""

from __future__ import annotations

from harness.hubble.traffic import Recording, Talk, recording
from harness.model.flow import FiveTuple, Flow, FlowEndpoint, FlowVerdict, L7Record
from harness.model.traffic import Entity, EntityName, External, Family, PodRef, Protocol, Request, RequestKind, Traffic
from harness.policy.evaluate import Evaluator
from harness.policy.repository import Repository
from tests.hubble.observing import make_flow

WEB, DB = PodRef("shop", "web"), PodRef("shop", "db")
WEB_TO_DB = Traffic(WEB, DB, Protocol.TCP, 8080, None, Family.IPV4)
LABELLED = FlowEndpoint(
    300,
    "shop",
    "web",
    (
        "k8s:app=web",
        "k8s:app.kubernetes.io/part-of=a=b",
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
        "k8s:io.cilium.k8s.namespace.labels.tier=front",
        "k8s:io.cilium.k8s.policy.cluster=default",
        "k8s:io.cilium.k8s.policy.serviceaccount=runner",
        "k8s:io.kubernetes.pod.namespace=shop",
    ),
)


def dropped(port: int = 40000, **changes: object) -> Flow:
    return make_flow(port, verdict=FlowVerdict.DROPPED, event_type=1, drop_reason=133, is_reply=None, **changes)


def test_pods_have_the_labels_of_their_identities():
    found = recording([make_flow(source=LABELLED)])
    (web,) = (pod for pod in found.state.pods if pod.ref == WEB)
    assert web.labels == {"app": "web", "app.kubernetes.io/part-of": "a=b"}
    assert web.service_account == "runner"
    assert {pod.ref for pod in found.state.pods} == {WEB, DB}


def test_connections_are_counted_once_whatever_was_seen_of_them():
    flows = [make_flow(40000), make_flow(40000, event_type=4), make_flow(40001), dropped(40002), dropped(40002, node="b"), make_flow(40002)]
    assert recording(flows).talks == (Talk(WEB_TO_DB, passed=2, dropped=1),)


def test_replies_unknown_directions_and_other_drops_say_nothing_of_policy():
    broken = make_flow(verdict=FlowVerdict.DROPPED, event_type=1, drop_reason=169, is_reply=None)
    assert recording([make_flow(is_reply=True), make_flow(is_reply=None), broken, make_flow(verdict=FlowVerdict.TRACED)]).talks == ()


def test_a_pod_that_talks_to_itself_asks_no_policy():
    assert recording([make_flow(destination=make_flow().source)]).talks == ()


def test_what_is_no_pod_is_an_entity_an_address_or_left_out():
    host = make_flow(source=FlowEndpoint(1, labels=("reserved:host",)))
    node = make_flow(source=FlowEndpoint(7, labels=("reserved:kube-apiserver", "reserved:remote-node")))
    world = make_flow(source=FlowEndpoint(2, labels=("reserved:world",)))
    cidr = make_flow(source=FlowEndpoint(16777217, labels=("cidr:192.0.2.0/24", "reserved:world")), five_tuple=FiveTuple(Protocol.TCP, "192.0.2.7", 1, "10.0.0.2", 8080))  # fmt: skip
    found = recording([host, node, world, cidr, make_flow(source=FlowEndpoint(12345))])
    assert [talk.traffic.source for talk in found.talks] == [
        Entity(EntityName.HOST),
        Entity(EntityName.KUBE_APISERVER),
        External("10.0.0.1"),
        External("192.0.2.7"),
    ]
    assert found.skipped == 1


def test_requests_are_traffic_of_their_own_and_answers_are_not():
    ask = make_flow(event_type=129, l7=L7Record("http", 1, method="GET", url="http://db:8080/users?page=2", headers=(("X-A", "1"),)))
    answer = make_flow(event_type=129, l7=L7Record("http", 2, method="GET", url="http://db:8080/users"))
    lookup = make_flow(event_type=129, l7=L7Record("dns", 1, query="api.stripe.com."))
    requests = [talk.traffic.request for talk in recording([ask, answer, lookup]).talks]
    assert requests == [
        Request(RequestKind.HTTP, "GET", "/users?page=2", "db:8080", (("X-A", "1"),)),
        Request(RequestKind.LOOKUP, name="api.stripe.com"),
    ]


def verdict(found: Recording, spec: dict) -> str:
    policy = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "p", "namespace": "shop"}, "spec": spec}
    return str(Evaluator(found.state, Repository.empty().change(apply=[policy]), found.learned).verdict(found.talks[0].traffic).verdict)


def test_policies_on_names_know_what_the_agents_knew():
    outside = FlowEndpoint(16777218, labels=("fqdn:api.stripe.com", "reserved:world"))
    found = recording([make_flow(source=LABELLED, destination=outside, destination_names=("api.stripe.com",))])
    subject = {"matchLabels": {"app": "web"}}
    assert verdict(found, {"endpointSelector": subject, "egress": [{"toFQDNs": [{"matchName": "api.stripe.com"}]}]}) == "allow"
    assert verdict(found, {"endpointSelector": subject, "egress": [{"toFQDNs": [{"matchName": "api.other.com"}]}]}) == "deny"


def test_policies_select_by_namespace_labels_and_service_accounts():
    found = recording([
        make_flow(source=LABELLED, destination=FlowEndpoint(301, "data", "db", ("k8s:app=db", "k8s:io.kubernetes.pod.namespace=data")))
    ])
    assert (
        verdict(found, {"endpointSelector": {"matchLabels": {"io.cilium.k8s.policy.serviceaccount": "runner"}}, "egress": [{}]}) == "deny"
    )
    assert (
        verdict(found, {"endpointSelector": {"matchLabels": {"io.cilium.k8s.policy.serviceaccount": "other"}}, "egress": [{}]}) == "allow"
    )
    assert found.state.namespaces["shop"]["tier"] == "front"
