"""Renaming is invisible to policy: the law, and each kind of reference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from harness.clusters.kubernetes.rename import CCNP, Renaming, unique
from harness.errors import ClusterError
from harness.model.cluster import CIDRGroup, ClusterState, ContainerPort, Pod
from harness.model.flow import FiveTuple, Flow, FlowEndpoint, FlowVerdict
from harness.model.traffic import External, PodRef, Protocol, Traffic
from harness.model.verdict import PolicyRef
from harness.policy.evaluate import Evaluator
from harness.policy.options import Options
from harness.policy.repository import Repository

CNP = "CiliumNetworkPolicy"
KNP = "NetworkPolicy"
SPACES = ("dev", "shop")
RENAMING = Renaming.of(SPACES, "k7x2qd-3")
POD = "io.kubernetes.pod.namespace"
LABELLED = "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name"


def state(renaming: Renaming | None = None) -> ClusterState:
    there = renaming.namespace if renaming else str
    return ClusterState(
        namespaces={there(each): {"team": each} for each in SPACES},
        pods=tuple(
            Pod(PodRef(there(space), app), {"app": app}, "a", ports=(ContainerPort(8080),)) for space in SPACES for app in ("api", "web")
        ),
    )


PODS = tuple(pod.ref for pod in state().pods)
spaces = st.sampled_from((*SPACES, "elsewhere"))
apps = st.sampled_from(["api", "web"])
keys = st.builds(lambda source, key: source + key, st.sampled_from(["", "k8s:", "any:"]), st.sampled_from([POD, LABELLED]))
operators = st.sampled_from(["In", "NotIn"])
several = st.lists(spaces, min_size=1, max_size=2, unique=True)
peers = st.one_of(
    st.builds(lambda key, space: {"matchLabels": {key: space}}, keys, spaces),
    st.builds(lambda key, space, app: {"matchLabels": {key: space, "app": app}}, keys, spaces, apps),
    st.builds(lambda key, how, values: {"matchExpressions": [{"key": key, "operator": how, "values": values}]}, keys, operators, several),
    st.builds(lambda app: {"matchLabels": {"app": app}}, apps),
    st.just({}),
)
metadata_names = st.one_of(
    st.builds(lambda space: {"matchLabels": {"kubernetes.io/metadata.name": space}}, spaces),
    st.builds(
        lambda how, values: {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": how, "values": values}]},
        operators,
        several,
    ),
    st.builds(lambda space: {"matchLabels": {"team": space}}, spaces),
)


def cilium(kind: str, subject: dict, rule: str, peer: dict, space: str) -> dict:
    way = "fromEndpoints" if rule.startswith("ingress") else "toEndpoints"
    metadata = {"name": f"{rule.lower()}-{space}"} | ({"namespace": space} if kind == CNP else {})
    return {"apiVersion": "cilium.io/v2", "kind": kind, "metadata": metadata, "spec": {"endpointSelector": subject, rule: [{way: [peer]}]}}


def network(subject: dict, peer: dict, space: str) -> dict:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": KNP,
        "metadata": {"name": "knp", "namespace": space},
        "spec": {"podSelector": subject, "ingress": [{"from": [{"namespaceSelector": peer}]}]},
    }


rules = st.sampled_from(["ingress", "egress", "ingressDeny", "egressDeny"])
own = st.sampled_from(SPACES)
subjects = st.sampled_from([{}, {"matchLabels": {"app": "api"}}])
policies = st.lists(
    st.one_of(
        st.builds(cilium, st.just(CNP), subjects, rules, peers, own),
        st.builds(cilium, st.just(CCNP), peers, rules, peers, own),
        st.builds(network, subjects, metadata_names, own),
    ),
    min_size=1,
    max_size=3,
)


def renamed(ref: PodRef) -> PodRef:
    return PodRef(RENAMING.namespace(ref.namespace), ref.name)


@given(policies)
def test_renaming_then_evaluating_is_evaluating_then_renaming(documents):
    options = Options()
    before = Evaluator(state(), Repository.empty(options).change(apply=documents))
    after = Evaluator(state(RENAMING), Repository.empty(options).change(apply=[RENAMING.document(each) for each in documents]))
    for source in PODS:
        for target in PODS:
            was = before.verdict(Traffic(source, target, Protocol.TCP, 8080))
            now = after.verdict(Traffic(renamed(source), renamed(target), Protocol.TCP, 8080))
            assert now.verdict is was.verdict
            for old, new in ((was.egress, now.egress), (was.ingress, now.ingress)):
                assert new.decision is old.decision
                assert {rule.policy for rule in new.rules} == {
                    RENAMING.ref(rule.policy) if rule.policy.name else rule.policy for rule in old.rules
                }


@given(policies)
def test_what_is_renamed_is_a_copy(documents):
    before = repr(documents)
    for each in documents:
        RENAMING.document(each)
    assert repr(documents) == before


@given(st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True), st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True))
def test_unique_names_fit_and_never_meet(one, other):
    for name in (one, other):
        assert len(unique(name, "k7x2qd-12")) <= 63
        assert unique(name, "k7x2qd-12").endswith("-k7x2qd-12")
    assert (unique(one, "k7x2qd-12") == unique(other, "k7x2qd-12")) == (one == other)


@given(st.sampled_from([PolicyRef(CNP, "shop", "a"), PolicyRef(KNP, "elsewhere", "a"), PolicyRef(CCNP, "", "wide")]))
def test_a_policy_on_the_cluster_is_reported_by_the_cases_name(ref):
    assert RENAMING.policy(RENAMING.ref(ref)) == ref


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web.shop.svc.cluster.local", "web.shop-k7x2qd-3.svc.cluster.local"),
        ("*.shop.svc.cluster.local", "*.shop-k7x2qd-3.svc.cluster.local"),
        ("web.shop.svc.cluster.local.", "web.shop-k7x2qd-3.svc.cluster.local."),
        ("web.shop.svc", "web.shop-k7x2qd-3.svc"),
        ("0.web.shop.svc.cluster.local", "0.web.shop-k7x2qd-3.svc.cluster.local"),
        ("web.elsewhere.svc.cluster.local", "web.elsewhere.svc.cluster.local"),
        ("shop.example.com", "shop.example.com"),
        ("*", "*"),
    ],
)
def test_names_of_services(name, expected):
    assert RENAMING.dns(name) == expected


def test_services_and_names_in_rules():
    document = cilium(CNP, {}, "egress", {}, "shop")
    document["spec"]["egress"] = [
        {
            "toServices": [
                {"k8sService": {"serviceName": "web", "namespace": "shop"}},
                {"k8sServiceSelector": {"selector": {}, "namespace": "dev"}},
            ]
        },
        {
            "toFQDNs": [{"matchName": "web.shop.svc.cluster.local"}],
            "toPorts": [{"rules": {"dns": [{"matchPattern": "*.dev.svc.cluster.local"}]}}],
        },
    ]
    services, names = RENAMING.document(document)["spec"]["egress"]
    assert services["toServices"][0]["k8sService"]["namespace"] == "shop-k7x2qd-3"
    assert services["toServices"][1]["k8sServiceSelector"]["namespace"] == "dev-k7x2qd-3"
    assert names["toFQDNs"][0]["matchName"] == "web.shop-k7x2qd-3.svc.cluster.local"
    assert names["toPorts"][0]["rules"]["dns"][0]["matchPattern"] == "*.dev-k7x2qd-3.svc.cluster.local"


@pytest.mark.parametrize(
    "spec", [None, [], "text", {"endpointSelector": None}, {"endpointSelector": {"matchExpressions": "x"}}, {"ingress": 3}]
)
def test_what_is_malformed_is_left_to_the_api_server(spec):
    for kind in (CNP, CCNP):
        assert RENAMING.document({"kind": kind, "metadata": {"name": "a"}, "spec": spec})["spec"] == spec


def test_a_policy_for_nodes_cannot_be_scoped():
    with pytest.raises(ClusterError, match="selects nodes"):
        RENAMING.document({"kind": CCNP, "metadata": {"name": "a"}, "spec": {"nodeSelector": {}, "ingress": [{}]}})


def test_a_flow_is_told_in_the_cases_names():
    there = FlowEndpoint(1234, "shop-k7x2qd-3", "web", (f"k8s:{POD}=shop-k7x2qd-3", "k8s:app=web"))
    flow = Flow(
        1,
        FlowVerdict.FORWARDED,
        FiveTuple(Protocol.TCP, "10.0.0.1", 20000, "10.0.0.2", 8080),
        source=there,
        ingress_allowed_by=(PolicyRef(CNP, "shop-k7x2qd-3", "web"), PolicyRef(CCNP, "", "wide-k7x2qd-3")),
        destination_service="dev-k7x2qd-3/web",
    )
    told = RENAMING.flow(flow)
    assert told.source == FlowEndpoint(1234, "shop", "web", (f"k8s:{POD}=shop", "k8s:app=web"))
    assert told.ingress_allowed_by == (PolicyRef(CNP, "shop", "web"), PolicyRef(CCNP, "", "wide"))
    assert told.destination_service == "dev/web"


@pytest.mark.parametrize("name", ["wide", "w" * 245, "w" * 253])
def test_a_clusterwide_policy_gets_its_name_back_however_long(name):
    renaming = Renaming.of(SPACES, "k7x2qd-3", [name])
    there = renaming.ref(PolicyRef(CCNP, "", name))
    assert len(there.name) <= 253
    assert renaming.policy(there) == PolicyRef(CCNP, "", name)


GROUPS = (CIDRGroup("offices", ("203.0.113.0/25",), {"kind": "office"}), CIDRGroup("shops", ("203.0.113.128/25",), {"kind": "shop"}))
FOREIGN = CIDRGroup("abroad", ("198.51.100.0/24",), {"kind": "office"})


@given(
    st.one_of(
        st.builds(lambda name: {"cidrGroupRef": name}, st.sampled_from(["offices", "shops"])),
        st.builds(lambda kind: {"cidrGroupSelector": {"matchLabels": {"kind": kind}}}, st.sampled_from(["office", "shop", "none"])),
        st.just({"cidrGroupSelector": {}}),
        st.just({"cidrGroupSelector": {"matchExpressions": [{"key": "kind", "operator": "Exists"}]}}),
    ),
    st.sampled_from(["203.0.113.7", "203.0.113.200", "198.51.100.7"]),
)
def test_cidr_groups_mean_the_cases_own_whatever_else_is_on_the_cluster(peer, address):
    spec = {"endpointSelector": {}, "egress": [{"toCIDRSet": [peer]}]}
    policy = {"apiVersion": "cilium.io/v2", "kind": CNP, "metadata": {"name": "p", "namespace": "shop"}, "spec": spec}

    def verdict(renaming: Renaming | None) -> object:
        case = state(renaming)
        groups = (*map(renaming.group, GROUPS), FOREIGN) if renaming else GROUPS
        pod = PodRef(renaming.namespace("shop") if renaming else "shop", "web")
        repository = Repository.empty(Options.of("1.20")).change([], [renaming.document(policy) if renaming else policy])
        assert not repository.errors
        found = Evaluator(replace(case, cidr_groups=groups), repository)
        return found.verdict(Traffic(pod, External(address), Protocol.TCP, 443)).verdict

    assert verdict(RENAMING) == verdict(None)


@pytest.mark.parametrize("selector", [{}, {"matchExpressions": [{"key": "kind", "operator": "DoesNotExist"}]}])
def test_a_selector_of_cidr_groups_that_means_everybody_is_left_alone(selector):
    spec = {"endpointSelector": {}, "egress": [{"toCIDRSet": [{"cidrGroupSelector": selector}]}]}
    assert RENAMING.document({"kind": CNP, "metadata": {"name": "p", "namespace": "shop"}, "spec": spec})["spec"] == spec
