"""What lookups teach the predictor: a wrong verdict by a name is a disagreement, and what cannot be told is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.cases.case import PartyKind
from harness.cases.load import find_case_files, load_cases
from harness.clusters.base import Change, Observation
from harness.clusters.netns import probe_capabilities
from harness.clusters.netns.cluster import LabOptions, NetnsCluster
from harness.engine.events import CheckFinished, Event
from harness.engine.names import Names
from harness.engine.session import Session
from harness.engine.settings import Settings
from harness.model.cluster import ClusterState, ExternalHost, Pod
from harness.model.flow import EventType, FiveTuple, Flow, FlowVerdict, L7Record, LostEvents
from harness.model.probe import Ending, Probe, ProbeResult, Site
from harness.model.traffic import Direction, Family, PodRef, Protocol, Request, RequestKind
from harness.model.verdict import Verdict

MACHINE = probe_capabilities()
lab = pytest.mark.skipif(not MACHINE.usable, reason=f"no lab here: {MACHINE.why}. {MACHINE.hint}")

SECOND = 1_000_000_000
NEAR, FAR = Site("pod", "default/near"), Site("pod", "default/far")
NAME, ADDRESS = "www.example.com", "203.0.113.10"
KNOWN = {ADDRESS: frozenset({NAME})}
STATE = ClusterState(
    namespaces={"default": {}},
    pods=tuple(Pod(PodRef("default", name), {}, node) for name, node in (("near", "a"), ("beside", "a"), ("far", "b"))),
    externals=(ExternalHost("www", ADDRESS, (NAME,)),),
)
FIVE = FiveTuple(Protocol.UDP, "10.0.0.1", 40000, "10.0.0.2", 53)
REDIRECTED = Flow(1, FlowVerdict.REDIRECTED, FIVE, Direction.EGRESS, event_type=EventType.POLICY_VERDICT)
FORWARDED = replace(REDIRECTED, verdict=FlowVerdict.FORWARDED)
DROPPED = replace(REDIRECTED, verdict=FlowVerdict.DROPPED)
ANSWER = replace(
    FORWARDED,
    five_tuple=FIVE.reversed(),
    is_reply=True,
    event_type=EventType.L7,
    l7=L7Record("dns", 2, query=f"{NAME}.", ips=(ADDRESS,), ttl=30),
)


def lookup(*flows: Flow, ending: Ending = Ending.ANSWERED, lost: tuple[LostEvents, ...] = ()) -> Observation:
    """A lookup from the tenth to the eleventh second."""
    request = Request(RequestKind.LOOKUP, name="WWW.example.com.")
    probe = Probe(1, NEAR, Protocol.UDP, Family.IPV4, "10.0.0.2", 53, "aa", 1.0, request=request)
    return Observation(probe, ProbeResult(1, ending, 10 * SECOND, 11 * SECOND, FIVE, status=0), flows, lost)


def after(*seen: Observation) -> Names:
    names = Names(STATE)
    for each in seen:
        names.saw(each)
    return names


@pytest.mark.parametrize(
    ("started", "ended", "sure", "possible"),
    [
        (8, 9, {}, {}),
        (8, 12, {}, KNOWN),
        (10, 12, {}, KNOWN),
        (11, 12, KNOWN, KNOWN),
        (39, 40, KNOWN, KNOWN),
        (39, 41, {}, KNOWN),
        (50, 51, {}, KNOWN),
    ],
)
def test_a_name_is_sure_between_its_answer_and_its_end_and_possible_from_its_question_on(started, ended, sure, possible):
    names = after(lookup(REDIRECTED, ANSWER))
    for site in (NEAR, Site("pod", "default/beside"), Site("node", "a")):
        assert names.at(site, started * SECOND, ended * SECOND) == (sure, possible)
    for site in (FAR, Site("node", "b"), Site("world", "192.0.2.1")):
        assert names.at(site, started * SECOND, ended * SECOND) == ({}, {})


@pytest.mark.parametrize(
    ("seen", "possible"),
    [
        (lookup(FORWARDED), {}),
        (lookup(DROPPED, ending=Ending.STOPPED), {}),
        (lookup(REDIRECTED), KNOWN),
        (lookup(), KNOWN),
        (lookup(FORWARDED, ending=Ending.TIMEOUT), KNOWN),
        (lookup(FORWARDED, lost=(LostEvents(1, 1),)), KNOWN),
        (replace(lookup(REDIRECTED, ANSWER), probe=replace(lookup().probe, liveness=True)), {}),
    ],
    ids=["no proxy", "dropped", "no answer told", "nothing told", "no answer", "events lost", "from inside"],
)
def test_a_lookup_teaches_nothing_where_no_proxy_heard_it_and_perhaps_something_where_that_is_not_told(seen, possible):
    assert after(seen).at(NEAR, 12 * SECOND, 13 * SECOND) == ({}, possible)


@pytest.fixture(scope="module")
def cluster() -> Iterator[NetnsCluster]:
    cluster = NetnsCluster(LabOptions())
    yield cluster
    cluster.close()


@lab
def test_every_check_of_the_shipped_dns_cases_has_a_prediction_and_agrees(cluster: NetnsCluster) -> None:
    events: list[Event] = []
    session = Session(cluster, Settings(), events.append)
    for path in find_case_files(Path(__file__).parents[2] / "suites" / "dns"):
        for case in load_cases(path):
            for phase in case.phases:
                session.run_phase(case, phase.name)
    session.close()
    results = [event.result for event in events if isinstance(event, CheckFinished)]
    # Where a lookup is refused, what it was for is not sent, and the model is not asked with what the node knew.
    sent = [each for each in results if each.expectation.targets[0].party.kind is not PartyKind.NAME or len(each.observations) > 1]
    assert len(sent) > 100
    # What is to hold only after a while: when exactly, nobody can tell.
    timely = [each for each in sent if each.expectation.within is None]
    assert [each.expectation.text for each in timely if each.prediction is None or each.prediction.verdict is Verdict.UNKNOWN] == []
    assert [each.disagreement for each in results if each.disagreement] == []


FORGETFUL = """
    case: a lab that forgets
    endpoints:
      client: {labels: {app: client}}
    externals:
      www: {names: [www.example.com], ports: [443]}
    phases:
      baseline:
        - allow: client -> www:443
      named:
        policies:
          - apiVersion: cilium.io/v2
            kind: CiliumNetworkPolicy
            metadata: {name: named}
            spec:
              endpointSelector: {matchLabels: {app: client}}
              egress:
                - toEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": kube-system}}]
                  toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchPattern: "*"}]}}]
                - toFQDNs: [{matchName: www.example.com}]
        expect:
          - {deny: "client -> www:443", reason: default-deny}
          - allow: client -> kube-dns lookup www.example.com
"""


@lab
def test_a_lab_that_does_not_do_by_names_what_it_should_disagrees_with_the_model(cluster: NetnsCluster, load) -> None:
    case = load(FORGETFUL)
    session = Session(cluster, Settings(), lambda _: None)
    session.open_case(case)
    closed, asked = case.phases[1].expectations
    session.apply(Change(apply=case.phases[1].apply))
    (before,) = session.check(closed)
    session.check(asked)
    (opened,) = session.check(closed)
    cluster.fault("expire_names")
    (forgotten,) = session.check(closed)
    session.close()
    assert (before.disagreement, opened.disagreement) == ("", "")
    assert [each.prediction and each.prediction.verdict for each in (before, opened)] == [Verdict.DENY, Verdict.ALLOW]
    assert forgotten.disagreement.startswith("the model allows it (allow at egress by CiliumNetworkPolicy/default/named")
