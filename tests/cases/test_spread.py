from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.cases.case import Case, EndpointSpec, ExternalSpec, PortSpec
from harness.cases.state import cluster_state, external_addresses, spread
from harness.errors import Location
from harness.model.cluster import ContainerPort, ExternalHost, ServicePort
from harness.model.traffic import PodRef, Protocol
from tests.cases.case_folder import Folder

HERE = Location("x.yaml", 1)
ENDPOINTS = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from((None, "a", "b", "c"))), max_size=6
).map(lambda specs: [EndpointSpec(f"e{index}", "default", {}, HERE, replicas=count, node=node) for index, (count, node) in enumerate(specs)])  # fmt: skip


def case(endpoints: list[EndpointSpec], externals: list[ExternalSpec] = []) -> Case:  # noqa: B006  # never changed
    return Case("x", HERE, "default", {}, {each.name: each for each in endpoints}, {}, {each.name: each for each in externals}, ())


@given(ENDPOINTS)
def test_every_pod_has_a_node_and_pinned_ones_theirs(endpoints: list[EndpointSpec]):
    nodes = spread(case(endpoints))
    assert list(nodes) == [pod for each in endpoints for pod in each.pods()]
    for each in endpoints:
        assert {nodes[pod] for pod in each.pods()} <= ({each.node} if each.node else {"a", "b"})


@given(ENDPOINTS)
def test_pods_that_are_free_to_go_are_spread_evenly(endpoints: list[EndpointSpec]):
    free = [spread(case(endpoints))[pod] for each in endpoints if each.node is None for pod in each.pods()]
    assert abs(free.count("a") - free.count("b")) <= 1


@given(ENDPOINTS)
def test_equal_cases_are_spread_alike(endpoints: list[EndpointSpec]):
    assert spread(case(endpoints)) == spread(case(list(endpoints)))


def test_host_pods_avoid_a_node_where_their_port_is_taken():
    port = (PortSpec(9100),)
    endpoints = [
        EndpointSpec("web", "default", {}, HERE),
        EndpointSpec("one", "default", {}, HERE, ports=port, host_network=True),
        EndpointSpec("two", "default", {}, HERE, ports=port, host_network=True, node="b"),
    ]
    nodes = spread(case(endpoints))
    assert (nodes[PodRef("default", "one")], nodes[PodRef("default", "two")]) == ("a", "b")


@given(st.lists(st.sampled_from((None, "198.51.100.1", "198.51.100.3", "2001:db8:51::1")), max_size=8))
def test_no_two_externals_share_an_address(declared: list[str | None]):
    unique = dict.fromkeys(each for each in declared if each)
    externals = [ExternalSpec(f"d{index}", HERE, addresses=(address,)) for index, address in enumerate(unique)]
    externals += [ExternalSpec(f"x{index}", HERE) for index in range(declared.count(None))]
    addresses = external_addresses(case([], externals))
    every = [address for each in addresses.values() for address in each]
    assert len(every) == len(set(every))
    assert all(len(addresses[each.name]) == (1 if each.addresses else 2) for each in externals)


def test_a_case_as_the_policy_model_sees_it(folder: Folder):
    found = folder.case(
        """\
        case: x
        namespace: shop
        namespaces: {shop: {env: prod}}
        endpoints:
          web: {labels: {app: web}, serviceAccount: web, replicas: 2, ports: [{port: 80, name: http}]}
          agent: {hostNetwork: true, node: b}
        services:
          web: {selector: {app: web}, ports: [{port: 8080, targetPort: http, name: front}], headless: true}
        externals:
          stripe: {names: [api.stripe.com], address: 203.0.113.9, ports: [443]}
        phases: {p: [{allow: agent -> web:80}]}
        """
    )
    state = cluster_state(found, {"a": "kind-worker", "b": "kind-worker2"})
    assert state.namespaces == {"shop": {"kubernetes.io/metadata.name": "shop", "env": "prod"}}
    pods = {str(each.ref): each for each in state.pods}
    assert list(pods) == ["shop/web-0", "shop/web-1", "shop/agent"]
    assert [each.node for each in state.pods] == ["kind-worker", "kind-worker2", "kind-worker2"]
    web = pods["shop/web-1"]
    assert (web.labels, web.service_account, web.host_network) == ({"app": "web"}, "web", False)
    assert web.ports == (ContainerPort(80, Protocol.TCP, "http"),)
    assert pods["shop/agent"].host_network
    (service,) = state.services
    assert (service.namespace, service.name, service.selector, service.headless) == ("shop", "web", {"app": "web"}, True)
    assert service.ports == (ServicePort(8080, "http", Protocol.TCP, "front"),)
    assert state.externals == (ExternalHost("stripe", "203.0.113.9", ("api.stripe.com",)),)
    assert state.nodes == {"kind-worker": {}, "kind-worker2": {}}
