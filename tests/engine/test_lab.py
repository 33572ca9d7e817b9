"""The whole thread on real packets: the lab and the model come to the same verdicts, and evidence that was tampered with never passes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.cases.case import Case
from harness.clusters.memory.cluster import MemoryCluster
from harness.clusters.netns import probe_capabilities
from harness.clusters.netns.cluster import LabOptions, NetnsCluster
from harness.clusters.open import Hubble
from harness.engine.events import CheckFinished, Event, PhaseFinished
from harness.engine.outcome import CheckResult, Outcome
from harness.engine.session import Session
from harness.engine.settings import Settings
from harness.model.probe import Ending

MACHINE = probe_capabilities()
pytestmark = pytest.mark.skipif(not MACHINE.usable, reason=f"no lab here: {MACHINE.why}. {MACHINE.hint}")

PASSED, FAILED, UNKNOWN = Outcome.PASSED, Outcome.FAILED, Outcome.UNKNOWN
ALLOW_CLIENT = """
          - apiVersion: cilium.io/v2
            kind: CiliumNetworkPolicy
            metadata: {name: server}
            spec:
              endpointSelector: {matchLabels: {app: server}}
              ingress: [{fromEndpoints: [{matchLabels: {app: client}}], toPorts: [{ports: [{port: "8080"}]}]}]
"""
WALK = f"""
    case: client and stranger
    endpoints:
      client: {{node: a, labels: {{app: client}}}}
      stranger: {{node: b, labels: {{app: stranger}}}}
      server: {{node: a, labels: {{app: server}}, ports: [8080, 9090]}}
    phases:
      baseline:
        - allow: client, stranger -> server:8080, server:9090
      policy:
        policies: {ALLOW_CLIENT}
        expect:
          - {{allow: "client -> server:8080", by: server}}
          - {{deny: "stranger -> server:8080", reason: default-deny, at: ingress}}
          - {{deny: "client, stranger -> server:9090", reason: default-deny}}
"""
EVERYTHING = """
    case: all kinds of ends
    namespace: shop
    namespaces: {shop: {env: prod}, dev: {env: dev}}
    endpoints:
      client: {node: a, labels: {app: client}, replicas: 2}
      visitor: {namespace: dev, labels: {app: client}}
      server:
        node: b
        replicas: 2
        labels: {app: server}
        ports: [8080, {port: 5353, protocol: UDP}, {port: 6000, protocol: UDP, serve: sink}, {port: 9000, name: grpc, serve: echo}]
      agent: {hostNetwork: true, node: b, ports: [9100]}
    services:
      server: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
    externals:
      partner: {addresses: [203.0.113.10, "2001:db8:113::10"], ports: [443]}
    phases:
      baseline:
        - allow: client, visitor, world, host, remote-node, kube-apiserver, partner -> server:8080
        - allow: client -> service/server:80, partner:443, kube-apiserver:6443, agent:9100
        - {allow: "client, visitor -> server:5353/UDP, server:6000/UDP, server:grpc", family: both}
      ingress:
        policies:
          - apiVersion: cilium.io/v2
            kind: CiliumNetworkPolicy
            metadata: {name: server}
            spec:
              endpointSelector: {matchLabels: {app: server}}
              ingress:
                - fromEndpoints: [{matchLabels: {app: client}}]
                - fromEntities: [remote-node]
                  toPorts: [{ports: [{port: "8080"}]}]
              ingressDeny:
                - fromEndpoints: [{matchLabels: {app: client}}]
                  toPorts: [{ports: [{port: "5353", protocol: UDP}]}]
        expect:
          - {allow: "client -> server:8080, service/server:80, server:6000/UDP", by: server}
          - {allow: "client -> server icmp", by: server}
          - {allow: "client -> server icmp6", by: server}
          - {allow: "remote-node, kube-apiserver -> server:8080", by: server}   # the API server is on a remote node
          - allow: host -> server:8080
          - {deny: "client -> server:5353/UDP", reason: deny-rule, at: ingress, by: server, family: both}
          - {deny: "visitor, world, partner -> server:8080", reason: default-deny, at: ingress}
          - {deny: "visitor -> service/server:80", reason: default-deny}
          - {deny: "visitor -> server:22", reason: default-deny, undeclared: true}
      egress:
        policies:
          - apiVersion: cilium.io/v2
            kind: CiliumNetworkPolicy
            metadata: {name: client}
            spec:
              endpointSelector: {matchLabels: {app: client}}
              egress:
                - toEndpoints: [{matchLabels: {app: server}}]
                  toPorts: [{ports: [{port: grpc}]}]
                - toCIDR: [203.0.113.0/24]
        expect:
          - {allow: "client -> server:grpc, partner:443"}
          - {allow: "visitor, server -> agent:9100, partner:443"}
          - {deny: "client -> partner:443", family: ipv6, reason: default-deny, at: egress}
          - {deny: "client -> server:8080, service/server:80, kube-apiserver:6443, agent:9100", reason: default-deny, at: egress}
          - {deny: "client -> server icmp", at: egress}
        otherwise: deny
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[NetnsCluster]:
    cluster = NetnsCluster(LabOptions())
    yield cluster
    cluster.close()


class Run:
    """A session on a cluster, and the results of the phase that ran last."""

    def __init__(self, cluster: NetnsCluster | MemoryCluster, **settings) -> None:
        self.events: list[Event] = []
        self.session = Session(cluster, Settings(**settings), self.events.append)

    def phase(self, case: Case, name: str) -> tuple[Outcome, list[CheckResult]]:
        finished = self.session.run_phase(case, name)
        assert isinstance(finished, PhaseFinished), finished
        assert not finished.error
        return finished.outcome, [
            event.result for event in self.events if isinstance(event, CheckFinished) and event.phase == name and not event.replayed
        ]


@pytest.fixture
def run(lab) -> Iterator[Run]:
    started = Run(lab)
    yield started
    started.session.close()


def concluded(results: list[CheckResult]) -> list[tuple]:
    return [(result.source, result.target, result.expectation.text, result.judgement.outcome, result.judgement.row) for result in results]


def whys(results: list[CheckResult]) -> str:
    return "\n".join(f"{result.source} -> {result.target}: {result.judgement}" for result in results)


@pytest.mark.parametrize("text", [WALK, EVERYTHING], ids=["walk", "everything"])
def test_the_lab_and_the_model_come_to_the_same_verdicts(load, run, text):
    case, model = load(text), Run(MemoryCluster())
    for phase in case.phases:
        outcome, results = run.phase(case, phase.name)
        assert concluded(results) == concluded(model.phase(case, phase.name)[1]), whys(results)
        assert [result.disagreement for result in results if result.disagreement] == []
        assert outcome is PASSED, whys(results)


def test_a_denied_probe_ends_with_its_drop_not_with_the_time_out(load, run):
    _, results = run.phase(load(WALK), "policy")
    denied = [result.observations[-1].result for result in results if result.judgement.row == 4]
    assert {result.ending for result in denied} == {Ending.STOPPED}
    assert len(denied) == 3


@pytest.mark.parametrize(
    ("old", "new", "outcome", "words"),
    [
        ("{app: client}}], toPorts", "{app: cleint}}], toPorts", FAILED, "dropped at ingress, default-deny"),
        ("fromEndpoints: [{matchLabels: {app: client}}]", "fromEndpoints: [{}]", FAILED, "nothing denied it"),
        ('port: "8080"', 'port: "8080", protocol: UDP', FAILED, "dropped at ingress, default-deny"),
    ],
    ids=["selector typo", "too-wide allow", "wrong protocol"],
)
def test_a_wrong_policy_fails(load, run, old, new, outcome, words):
    found, results = run.phase(load(WALK.replace(old, new)), "policy")
    assert found is outcome
    assert words in whys(results)


# Evidence that was tampered with: unknown under allow as under deny, never passed


def of_port(results: list[CheckResult], port: int) -> dict[str, Outcome]:
    return {result.source: result.judgement.outcome for result in results if f":{port}/" in result.target}


def test_a_server_that_was_killed_is_unknown_under_allow_as_under_deny(load, run, lab):
    case = load(WALK)
    assert run.phase(case, "baseline")[0] is PASSED
    assert lab.fault("close", "default/server") > 0
    outcome, results = run.phase(case, "policy")
    assert outcome is UNKNOWN
    assert {result.judgement.outcome for result in results} == {UNKNOWN}, whys(results)
    assert "not proven alive" in whys(results)


def test_a_port_that_was_closed_is_unknown_and_the_others_are_not(load, run, lab):
    case = load(WALK)
    assert run.phase(case, "baseline")[0] is PASSED
    lab.fault("close", "default/server", 8080)
    outcome, results = run.phase(case, "policy")
    assert outcome is UNKNOWN
    assert of_port(results, 8080) == {"client": UNKNOWN, "stranger": UNKNOWN}
    assert of_port(results, 9090) == {"client": PASSED, "stranger": PASSED}


def test_flows_that_were_discarded_make_it_unknown_and_the_others_are_not(load, run, lab):
    case = load(WALK)
    assert run.phase(case, "baseline")[0] is PASSED
    lab.fault("discard_flows", 8080)
    outcome, results = run.phase(case, "policy")
    assert outcome is UNKNOWN
    assert of_port(results, 8080) == {"client": UNKNOWN, "stranger": UNKNOWN}, whys(results)
    assert of_port(results, 9090) == {"client": PASSED, "stranger": PASSED}


def test_a_server_that_was_dead_from_the_start_spoils_what_rests_on_its_baseline(load, run, lab):
    case = load(WALK)
    run.session.open_case(case)
    lab.fault("close", "default/server", 8080)
    _, baseline = run.phase(case, "baseline")
    assert of_port(baseline, 8080) == {"client": UNKNOWN, "stranger": UNKNOWN}
    _, results = run.phase(case, "policy")
    assert of_port(results, 8080) == {"client": UNKNOWN, "stranger": UNKNOWN}
    assert "the baseline did not hold" in whys(results)
    assert of_port(results, 9090) == {"client": PASSED, "stranger": PASSED}


def test_packets_only_judges_by_answers_and_silence(load):
    cluster = NetnsCluster(LabOptions(flows=False))
    try:
        run = Run(cluster, hubble=Hubble.OFF)
        outcome, results = run.phase(load(WALK), "policy")
        assert outcome is UNKNOWN
        assert "the flows do not tell at which side, for which reason" in whys(results)
        bare = WALK.replace(", by: server", "").replace(", reason: default-deny", "").replace(", at: ingress", "")
        outcome, results = run.phase(load(bare), "policy")
        assert outcome is PASSED, whys(results)
    finally:
        cluster.close()
