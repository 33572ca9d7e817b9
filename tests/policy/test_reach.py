"""Reachability by classes is the evaluator's, cell by cell: whatever the policies, the ports, the nodes and who asks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from harness.errors import ScenarioError
from harness.model.cluster import ClusterState
from harness.model.traffic import Direction, Entity, EntityName, External, Peer, PodRef, Protocol, Traffic
from harness.model.verdict import Decision
from harness.policy.evaluate import Evaluator
from harness.policy.ports import port_classes
from harness.policy.reach import Reach, Reachability
from harness.policy.table import ALL_PORTS
from tests.policy.policy_worlds import ADDRESSES, WORLD, ccnp, cnp, evaluator, law, pod, ports, repositories, states

PORTS = [(Protocol.TCP, 80), (Protocol.TCP, 8080), (Protocol.UDP, 53), (Protocol.ICMP, 8)]


def expected(model: Evaluator, source: Peer, target: Peer, protocol: Protocol, port: int) -> Reach:
    """What the one-flow evaluator says, in the words of a cell."""
    verdict = model.verdict(Traffic(source, target, protocol, port))
    sides = (verdict.egress, verdict.ingress)
    if any(side.decision.denies for side in sides):
        return Reach.DENY
    for decision, reach in ((Decision.ERROR, Reach.ERROR), (Decision.UNKNOWN, Reach.UNKNOWN)):
        if any(side.decision is decision for side in sides):
            return reach
    return Reach.CONDITIONAL if any(side.redirected for side in sides) else Reach.ALLOW


@st.composite
def worlds(draw: st.DrawFn) -> ClusterState:
    """Random clusters in which pods share identities but not ports, and some run on their node's network."""
    state = draw(states())
    twins = [replace(each, ref=PodRef(each.ref.namespace, f"{each.ref.name}-twin"), node="n2") for each in state.pods[:2]]
    pods = (*state.pods, *(replace(each, ports=()) for each in twins))
    on_node = draw(st.sets(st.integers(0, len(pods) - 1), max_size=2))
    return replace(state, pods=tuple(replace(each, host_network=True) if at in on_node else each for at, each in enumerate(pods)))


OPTIONS = st.fixed_dictionaries({
    "cilium": st.sampled_from(["1.18", "1.19", "1.20"]),
    "enforcement": st.sampled_from(["default", "default", "default", "always", "never"]),
    "host_firewall": st.booleans(),
    "node_selector_labels": st.booleans(),
    "names_unknown": st.booleans(),
})


@given(state=worlds(), policies=repositories(), options=OPTIONS)
@law(30)
def test_every_cell_is_the_evaluators(state, policies, options):
    model = evaluator(*policies, state=state, **options)
    peers = [each.ref for each in state.pods] + [External(each) for each in ADDRESSES[:2]] + [Entity(name) for name in EntityName]
    found = Reachability(model, PORTS, peers)
    matrix = found.matrix()
    for at, (protocol, port) in enumerate(PORTS):
        for row, source in enumerate(peers):
            for column, target in enumerate(peers):
                wanted = expected(model, source, target, protocol, port)
                assert matrix[at, row, column] == wanted, f"{source} -> {target}:{port}/{protocol}"
    source, target = peers[0], peers[-1]
    assert found.reach(source, target, *PORTS[0]) is expected(model, source, target, *PORTS[0])


@given(state=worlds(), policies=repositories())
@law(25)
def test_a_band_and_the_counts_are_of_the_same_matrix(state, policies):
    found = Reachability(evaluator(*policies, state=state), PORTS)
    matrix = found.matrix()
    assert (found.matrix(slice(1, 3)) == matrix[:, 1:3]).all()
    assert found.counts() == {kind: int((matrix == kind).sum()) for kind in Reach}


@given(state=states(), policies=repositories(), port=st.integers(0, ALL_PORTS), protocol=st.sampled_from([Protocol.TCP, Protocol.UDP]))
@law(25)
def test_a_port_is_treated_as_its_class(state, policies, port, protocol):
    model = evaluator(*policies, state=state)
    (mine,) = [each for each in port_classes(model) if each.protocol is protocol and each.first <= port <= each.last]
    peers = [*(each.ref for each in state.pods), External("10.0.0.1")]
    for source in peers:
        for target in peers:
            assert expected(model, source, target, protocol, port) is expected(model, source, target, protocol, mine.first)


def test_port_classes_are_all_ports_of_a_protocol():
    classes = port_classes(evaluator(cnp(ingress=[{"toPorts": ports("80", "http")}])), [Protocol.TCP])
    assert [str(each) for each in classes] == ["0-79/TCP", "80/TCP", "81-8079/TCP", "8080/TCP", "8081-65535/TCP"]


def test_replicas_are_one_class_unless_a_named_port_tells_them_apart():
    twins = ClusterState(
        namespaces={"a": {}},
        pods=(
            pod("a", "one", {"app": "web"}, WORLD.pods[3].ports[0]),
            pod("a", "two", {"app": "web"}, WORLD.pods[3].ports[0]),
            pod("a", "other", {"app": "web"}),
        ),
    )
    found = Reachability(evaluator(ccnp(ingress=[{"toPorts": ports("http")}]), state=twins), [(Protocol.TCP, 8080)])
    assert found.classes == ((PodRef("a", "one"), PodRef("a", "two")), (PodRef("a", "other"),))
    assert found.reach(PodRef("a", "two"), PodRef("a", "one"), Protocol.TCP, 8080) is Reach.ALLOW
    assert found.reach(PodRef("a", "two"), PodRef("a", "other"), Protocol.TCP, 8080) is Reach.DENY


def test_a_proxy_on_either_side_makes_a_cell_conditional():
    rule = {"toPorts": ports("8080/TCP", rules={"http": [{"path": "/x"}]})}
    found = Reachability(evaluator(cnp(ingress=[rule])), [(Protocol.TCP, 8080)])
    assert found.reach(PodRef("a", "a1"), PodRef("a", "web"), Protocol.TCP, 8080) is Reach.CONDITIONAL


def test_filters_that_conflict_are_an_error_in_both_directions():
    listeners = [
        {"toPorts": ports("8080/TCP", rules={"http": [{"path": "/x"}]})},
        {"toPorts": ports("8080/TCP", rules={"kafka": [{"topic": "t"}]})},
    ]
    model = evaluator(cnp(ingress=listeners), cilium="1.19")
    web = PodRef("a", "web")
    assert model.direction(Traffic(web, PodRef("a", "a1"), Protocol.TCP, 1), Direction.EGRESS).decision is Decision.ERROR
    found = Reachability(model, [(Protocol.TCP, 1)])
    assert found.reach(web, PodRef("a", "a1"), Protocol.TCP, 1) is Reach.ERROR


def test_who_was_not_asked_for_is_an_error():
    found = Reachability(evaluator(), PORTS, [PodRef("a", "a1")])
    with pytest.raises(ScenarioError, match="a/a2 is none of the peers"):
        found.reach(PodRef("a", "a1"), PodRef("a", "a2"), Protocol.TCP, 80)
    with pytest.raises(ScenarioError, match="no pod a/nobody"):
        Reachability(evaluator(), PORTS, [PodRef("a", "nobody")])
