"""Label selectors and identities: sources of keys, what Cilium adds, which pod labels count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.model.cluster import ClusterState, ContainerPort
from harness.model.labels import Label
from harness.model.traffic import Protocol
from harness.policy.identities import bits, cidr_label, pod_labels, security_relevant
from harness.policy.prefix import Prefix, PrefixTable, parse_address, parse_prefix
from harness.policy.reach import Reach, Reachability
from tests.policy.policy_worlds import HTTP, WORLD, Document, app, ask, ccnp, cnp, evaluator, knp, law, pod, ports, traffic

NS = "k8s:io.kubernetes.pod.namespace"


@pytest.mark.parametrize(
    ("key", "counts"),
    [
        ("app", True),
        ("app.kubernetes.io/name", True),
        ("example.com/role", True),
        ("node-role.kubernetes.io/x", True),
        ("io.kubernetes.foo", False),
        ("io.kubernetes.pod.namespace", True),
        ("kubernetes.io/x", False),
        ("a.beta.kubernetes.io/z", False),
        ("k8s.io/y", False),
        ("statefulset.kubernetes.io/pod-name", False),
        ("topology.kubernetes.io/zone", False),
        ("pod-template-hash", False),
        ("controller-uid", False),
        ("annotationx", False),
        ("etcd_node", False),
        ("batch.kubernetes.io/job-name", True),
        ("apps.kubernetes.io/pod-index", False),
    ],
)
def test_which_pod_labels_are_part_of_the_identity(key: str, counts: bool) -> None:
    assert security_relevant(key) is counts


def test_the_labels_of_a_pod() -> None:
    labels = pod_labels(pod("a", "x", {"app": "x", "pod-template-hash": "1"}, service_account="robot"), {"a": {"team": "x"}})
    assert {str(each) for each in labels} == {
        "k8s:app=x",
        "k8s:io.kubernetes.pod.namespace=a",
        "k8s:io.cilium.k8s.namespace.labels.team=x",
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=a",
        "k8s:io.cilium.k8s.policy.cluster=default",
        "k8s:io.cilium.k8s.policy.serviceaccount=robot",
    }


PEERS: dict[str, tuple[Document, set[str]]] = {
    "k8s and any sources": ({"matchLabels": {"k8s:app": "a"}}, {"a/a1"}),
    "another source": ({"matchLabels": {"container:app": "a"}}, set()),
    "a missing key satisfies NotIn": (
        {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["x"]}]},
        {"a/a1", "a/a2", "a/web"},
    ),
    "labels of the namespace open all namespaces": (
        {"matchLabels": {"io.cilium.k8s.namespace.labels.team": "x"}},
        {"a/a1", "a/a2", "a/web", "c/c1"},
    ),
    "a reserved key opens everything": (
        {"matchExpressions": [{"key": "reserved:host", "operator": "DoesNotExist"}]},
        {"a/a1", "a/a2", "a/web", "b/b1", "c/c1", "far/f", "world:8.8.8.8", "world:2001:db8::1", "remote-node", "health"},
    ),
    "reserved:world is nothing in dual stack": ({"matchLabels": {"reserved:world": ""}}, set()),
    "reserved:world-ipv6": ({"matchLabels": {"reserved:world-ipv6": ""}}, {"world:2001:db8::1"}),
    "any cluster": (
        {"matchLabels": {NS: "far"}, "matchExpressions": [{"key": "io.cilium.k8s.policy.cluster", "operator": "Exists"}]},
        {"far/f"},
    ),
    "the local cluster by default": ({"matchLabels": {NS: "far"}}, set()),
    "another cluster by name": ({"matchLabels": {NS: "far", "io.cilium.k8s.policy.cluster": "other"}}, {"far/f"}),
    "a service account": ({"matchLabels": {"io.cilium.k8s.policy.serviceaccount": "robot", NS: "c"}}, {"c/c1"}),
}
MESH = ClusterState({**WORLD.namespaces, "far": {}}, (*WORLD.pods, pod("far", "f", {"app": "a"}, cluster="other")))


def reached(policy: Document, **options: str) -> set[str]:
    made = evaluator(policy, state=MESH, **options)
    everyone = [str(each.ref) for each in MESH.pods] + ["world:8.8.8.8", "world:2001:db8::1", "remote-node", "health"]
    return {peer for peer in everyone if made.verdict(traffic(f"a/web -> {peer}:80")).egress.decision == "allow"}


@pytest.mark.parametrize("name", PEERS)
def test_whom_a_peer_selector_selects(name: str) -> None:
    selector, expected = PEERS[name]
    assert reached(cnp(egress=[{"toEndpoints": [selector]}])) == expected


def test_before_1_19_every_cluster_is_meant() -> None:
    policy = cnp(egress=[{"toEndpoints": [{"matchLabels": {NS: "far"}}]}])
    assert reached(policy, cilium="1.18") == {"far/f"}
    assert reached(policy, cilium="1.19") == set()


def test_a_clusterwide_empty_peer_is_every_pod_and_no_entity() -> None:
    assert reached(ccnp(egress=[{"toEndpoints": [{}]}])) == {"a/a1", "a/a2", "a/web", "b/b1", "c/c1"}


def test_pods_of_another_cluster_are_enforced_there() -> None:
    verdict = evaluator(ccnp(subject={}, egress=[{}]), state=MESH).verdict(traffic("far/f -> a/a1:80"))
    assert verdict.egress.decision == "n/a"


@pytest.mark.parametrize(
    ("key", "expected"),
    [("k8s:io.kubernetes.pod.namespace", {"a/a1"}), ("io.kubernetes.pod.namespace", set()), ("any:io.kubernetes.pod.namespace", set())],
)
def test_a_policy_cannot_select_another_namespace(key: str, expected: set[str]) -> None:
    made = evaluator(cnp(subject={"matchLabels": {"app": "a", key: "b"}}, ingress=[{}]))
    names = ("a/a1", "a/a2", "b/b1")
    assert {name for name in names if made.verdict(traffic(f"a/web -> {name}:80")).ingress.enforced} == expected


def test_a_network_policy_overwrites_the_namespace_of_its_peers() -> None:
    policy = knp(ingress=[{"from": [{"podSelector": {"matchLabels": {"io.kubernetes.pod.namespace": "b"}}}]}])
    made = evaluator(policy)
    assert made.verdict(traffic("a/a1 -> a/web:80")).verdict == "allow"
    assert made.verdict(traffic("b/b1 -> a/web:80")).verdict == "deny"


TWO = ClusterState(
    {"a": {}},
    (
        pod("a", "client", {"app": "client"}),
        pod("a", "one", {"app": "one"}, ContainerPort(9001, name="adm"), ContainerPort(9100, name="Only")),
        pod("a", "two", {"app": "two"}, ContainerPort(9002, name="adm")),
        pod("a", "none", {"app": "none"}),
    ),
)


@pytest.mark.parametrize(
    ("cilium", "name", "allowed"),
    [
        ("1.19", "adm", set()),
        ("1.20", "adm", {("one", 9001), ("two", 9002)}),
        ("1.19", "only", {("one", 9100), ("two", 9100), ("none", 9100)}),
        ("1.20", "only", {("one", 9100)}),
    ],
)
def test_named_ports_on_egress(cilium: str, name: str, allowed: set[tuple[str, int]]) -> None:
    policy = cnp(subject=app("client"), egress=[{"toEndpoints": [{}], "toPorts": ports(f"{name}/TCP")}])
    made = evaluator(policy, state=TWO, cilium=cilium)
    found = {
        (target, port)
        for target in ("one", "two", "none")
        for port in (9001, 9002, 9100)
        if made.verdict(traffic(f"a/client -> a/{target}:{port}")).egress.decision == "allow"
    }
    assert found == allowed


@pytest.mark.parametrize(("cilium", "last"), [("1.19", 100), ("1.20", 65535)])
def test_port_0_with_an_end(cilium: str, last: int) -> None:
    policy = cnp(ingress=[{"toPorts": [{"ports": [{"port": "0", "endPort": 100, "protocol": "TCP"}]}]}])
    open_ports = {port for port in (0, 100, 101, 65535) if ask(f"a/a1 -> a/web:{port}", policy, cilium=cilium).verdict == "allow"}
    assert open_ports == {port for port in (0, 100, 101, 65535) if port <= last}


@pytest.mark.parametrize(("cilium", "decision"), [("1.19", "allow"), ("1.20", "default-deny")])
def test_mode_always_without_any_rule_and_the_node(cilium: str, decision: str) -> None:
    assert ask("host -> a/web:80", enforcement="always", cilium=cilium).ingress.decision == decision
    assert ask("a/a1 -> a/web:80", enforcement="always", cilium=cilium).verdict == "deny"
    assert ask("host -> init:80", cilium=cilium).ingress.decision == decision


def test_mode_never() -> None:
    assert ask("a/a1 -> a/web:80", cnp(ingress=[{}]), enforcement="never").verdict == "allow"


def test_single_stack_knows_one_world() -> None:
    policy = cnp(egress=[{"toEndpoints": [{"matchLabels": {"reserved:world": ""}}]}])
    assert ask("a/web -> world:8.8.8.8:80", policy, ipv6=False).verdict == "allow"
    assert ask("a/web -> world:8.8.8.8:80", policy).verdict == "deny"
    assert ask("a/web -> world:8.8.8.8:80", cnp(egress=[{"toCIDR": ["0.0.0.0/0"]}]), ipv6=False).verdict == "allow"


HOSTS = ClusterState(
    {"a": {}},
    (
        pod("a", "x", {"app": "x"}, node="a"),
        pod("a", "y", {"app": "y"}, node="b"),
        pod("a", "agent", {"app": "agent"}, HTTP, node="b", host_network=True),
    ),
    nodes={"a": {"role": "edge"}, "b": {}},
)


def test_a_host_network_pod_is_its_node() -> None:
    remote = cnp(subject={}, ingress=[{"fromEntities": ["remote-node"]}])
    made = evaluator(remote, state=HOSTS)
    assert made.verdict(traffic("a/agent -> a/x:80")).ingress.rules[0].policy.name == "p"
    assert made.verdict(traffic("a/agent -> a/y:80")).ingress.rules[0].path == "allow-localhost-ingress"
    assert made.verdict(traffic("a/x -> a/agent:8080")).ingress.decision == "n/a"


def test_host_policies_need_the_host_firewall_and_select_nodes_by_label() -> None:
    policy = ccnp(ingress=[{"fromEndpoints": [app("y")]}], nodeSelector={"matchLabels": {"role": "edge"}})
    del policy["spec"]["endpointSelector"]
    off, on = evaluator(policy, state=HOSTS), evaluator(policy, state=HOSTS, host_firewall=True)
    assert off.verdict(traffic("a/x -> host:22")).ingress.decision == "n/a"
    assert on.verdict(traffic("a/x -> host:22")).ingress.decision == "default-deny"
    assert on.verdict(traffic("a/y -> host:22")).ingress.decision == "allow", "node b is not selected"
    assert on.verdict(traffic("a/y -> remote-node:22")).ingress.decision == "allow", "node a lets app=y in"
    assert on.verdict(traffic("a/x -> a/agent:8080")).ingress.enforced is False
    assert on.status(on.repository.enforced[0].ref).selects == ("a",)


def test_from_outside_the_host_is_any_node_and_unknown_only_where_nodes_differ() -> None:
    everywhere = ccnp(ingress=[{"fromEntities": ["cluster"]}], nodeSelector={})
    edge = ccnp(ingress=[{"fromEntities": ["cluster"]}], nodeSelector={"matchLabels": {"role": "edge"}})
    for policy in (everywhere, edge):
        del policy["spec"]["endpointSelector"]
    alike, apart = (evaluator(policy, state=HOSTS, host_firewall=True) for policy in (everywhere, edge))
    for end in ("host", "remote-node"):
        asked = traffic(f"world:192.0.2.7 -> {end}:22")
        assert alike.verdict(asked).ingress.decision == "default-deny"
        assert apart.verdict(asked).verdict == "unknown"
        assert apart.verdict(asked).ingress.note.startswith("policies differ between nodes")
        peers = (asked.source, asked.destination)
        for each, cell in ((alike, Reach.DENY), (apart, Reach.UNKNOWN)):
            assert Reachability(each, [(Protocol.TCP, 22)], peers).reach(*peers, Protocol.TCP, 22) is cell
    assert apart.verdict(traffic("a/x -> host:22")).verdict == "allow", "whose node is the edge, which lets the cluster in"
    assert apart.verdict(traffic("world:192.0.2.7 -> a/agent:8080")).verdict == "allow", "whose node is not the edge"
    assert evaluator(edge, state=HOSTS).verdict(traffic("world:192.0.2.7 -> host:22")).verdict == "allow", "the host firewall is off"


def test_node_selector_labels_tell_nodes_apart() -> None:
    policy = cnp(subject={}, ingress=[{"fromNodes": [{"matchLabels": {"node:role": "edge"}}]}])
    made = evaluator(policy, state=HOSTS, node_selector_labels=True)
    assert made.verdict(traffic("remote-node -> a/y:80")).ingress.decision == "allow"
    assert made.verdict(traffic("remote-node -> a/x:80")).ingress.decision == "default-deny"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("10.0.0.0/8", "cidr:10.0.0.0/8"),
        ("2001:db8::/32", "cidr:2001-db8--0/32"),
        ("::1/128", "cidr:0--1/128"),
        ("fd00::5/128", "cidr:fd00--5/128"),
    ],
)
def test_cidr_labels(text: str, label: str) -> None:
    assert str(cidr_label(parse_prefix(text))) == label
    assert Label.parse(label) == cidr_label(parse_prefix(text))


@pytest.mark.parametrize(
    "text", ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/08", "10.0.0/8", "10.0.0.0/255.0.0.0", "fe80::%eth0/64", "::/129", "/8", ""]
)
def test_what_is_no_prefix(text: str) -> None:
    with pytest.raises(ValueError, match=r"does not appear|prefix length|zone"):
        parse_prefix(text)


addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
prefixes = st.builds(
    lambda address, length: parse_prefix(f"{address}/{min(length, parse_address(address).bits)}"), addresses, st.integers(0, 128)
)


@law(100)
@given(prefixes)
def test_printing_a_prefix_and_parsing_it_is_the_identity(prefix: Prefix) -> None:
    assert parse_prefix(str(prefix)) == prefix
    assert prefix.contains(prefix)


@law(100)
@given(st.lists(prefixes, max_size=8), addresses)
def test_the_longest_prefix_wins(known: list[Prefix], address: str) -> None:
    wanted = parse_address(address)
    holding = [prefix for prefix in known if prefix.contains(wanted)]
    assert PrefixTable(known).longest(wanted) == max(holding, key=lambda prefix: prefix.length, default=None)


@law(100)
@given(st.sets(st.integers(0, 200)))
def test_bits(positions: set[int]) -> None:
    assert list(bits(sum(1 << position for position in positions))) == sorted(positions)


def test_protocols_without_ports() -> None:
    policy = cnp(ingress=[{"toPorts": ports("0/VRRP")}])
    asked = traffic("a/a1 -> a/web:0")
    made = evaluator(policy)
    assert made.verdict(type(asked)(asked.source, asked.destination, Protocol.VRRP, 0)).verdict == "allow"
    assert made.verdict(asked).verdict == "deny"
