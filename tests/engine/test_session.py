"""A run, phase by phase, on the cluster that sends no packet: order, gates, skips, replays, events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
from msgspec.structs import replace

from harness.cases.case import Case, Placement, Requirements
from harness.cases.expectations import parse_expectation
from harness.clusters.base import Capabilities, Change, Observation
from harness.clusters.memory.cluster import MemoryCluster
from harness.clusters.open import Hubble
from harness.engine.events import CasePrepared, CheckFinished, Event, PhaseFinished, PhaseSkipped, PhaseStarted, PoliciesApplied, dump
from harness.engine.events import load as load_event
from harness.engine.outcome import Outcome
from harness.engine.session import Session
from harness.engine.settings import Settings
from harness.errors import ClusterError, FlowsUnavailableError, Location, UsageError
from harness.model.flow import LostEvents
from harness.model.probe import Ending, Probe
from harness.model.traffic import Direction

WALK = """
    case: only the frontend reaches the backend
    namespace: shop
    endpoints:
      frontend: {labels: {app: frontend}}
      intruder: {labels: {app: intruder}}
      backend: {labels: {app: backend}, ports: [8080]}
    phases:
      baseline:
        - allow: frontend, intruder -> backend:8080
      deny:
        policies:
          - apiVersion: cilium.io/v2
            kind: CiliumNetworkPolicy
            metadata: {name: deny}
            spec: {endpointSelector: {matchLabels: {app: backend}}, ingress: [{}]}
        expect:
          - {deny: "frontend, intruder -> backend:8080", reason: default-deny, at: ingress}
      allow:
        policies:
          - apiVersion: cilium.io/v2
            kind: CiliumNetworkPolicy
            metadata: {name: backend}
            spec:
              endpointSelector: {matchLabels: {app: backend}}
              ingress:
                - fromEndpoints: [{matchLabels: {app: frontend}}]
                  toPorts: [{ports: [{port: "8080"}]}]
        expect:
          - {allow: "frontend -> backend:8080", by: backend}
          - {deny: "intruder -> backend:8080", reason: default-deny}
"""


class Faulty(MemoryCluster):
    """A cluster on which something goes wrong: each observation passes through `fault` (None: it is never reported)."""

    def __init__(self, fault: Callable[[Observation], Observation | None]) -> None:
        super().__init__()
        self._fault = fault

    def probe(self, plan: Sequence[Probe]) -> Iterator[Observation]:
        return (changed for each in super().probe(plan) if (changed := self._fault(each)) is not None)


class Watching(MemoryCluster):
    """Remembers what it was asked to send."""

    def __init__(self, *, audit: bool = False) -> None:
        super().__init__()
        self.sent: list[Probe] = []
        self.audit = audit

    def prepare(self, case: Case) -> Placement:
        return replace(super().prepare(case), audited=self.audit)

    def probe(self, plan: Sequence[Probe]) -> Iterator[Observation]:
        self.sent.extend(plan)
        return super().probe(plan)


class Run:
    """A session with all that it emitted."""

    def __init__(self, cluster: MemoryCluster | None = None, **settings) -> None:
        self.events: list[Event] = []
        self.cluster = cluster or MemoryCluster()
        self.session = Session(self.cluster, Settings(**settings), self.events.append)

    def phase(self, case: Case, name: str) -> PhaseFinished:
        finished = self.session.run_phase(case, name)
        assert isinstance(finished, PhaseFinished), finished
        return finished

    def all(self, case: Case) -> list[Outcome]:
        return [self.phase(case, phase.name).outcome for phase in case.phases]

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    def why(self) -> str:
        return "\n".join(event.result.judgement.why for event in self.of(CheckFinished))


PASSED, FAILED, UNKNOWN = Outcome.PASSED, Outcome.FAILED, Outcome.UNKNOWN


def test_a_case_passes_phase_by_phase(load):
    run = Run()
    assert run.all(load(WALK)) == [PASSED, PASSED, PASSED], run.why()
    assert [event.checks for event in run.of(PhaseFinished)] == [2, 2, 2]
    assert len(run.of(CasePrepared)) == 1


def test_a_phase_by_itself_replays_what_comes_before_it(load):
    run = Run()
    assert run.phase(load(WALK), "allow").outcome is PASSED
    assert [(event.phase, event.replayed) for event in run.of(PoliciesApplied)] == [("baseline", True), ("deny", True), ("allow", False)]
    assert [(event.phase, event.replayed) for event in run.of(PhaseFinished)] == [("baseline", True), ("allow", False)]
    assert [(event.phase, event.replayed) for event in run.of(PhaseStarted)] == [("baseline", True), ("allow", False)]
    assert {event.phase for event in run.of(CheckFinished) if event.replayed} == {"baseline"}


def test_going_back_starts_the_case_anew(load):
    run, case = Run(), load(WALK)
    assert [run.phase(case, name).outcome for name in ("allow", "deny", "baseline")] == [PASSED, PASSED, PASSED], run.why()
    assert len(run.of(CasePrepared)) == 3


def test_a_phase_that_does_not_exist_is_the_callers_mistake(load):
    with pytest.raises(UsageError, match="has no phase 'aloow'"):
        Run().session.run_phase(load(WALK), "aloow")


def test_a_too_wide_allow_fails_the_deny(load):
    run = Run()
    assert run.all(load(WALK.replace("fromEndpoints: [{matchLabels: {app: frontend}}]", "fromEndpoints: [{}]"))) == [PASSED, PASSED, FAILED]
    assert "nothing denied it" in run.why()


def test_a_wrong_protocol_fails_the_allow(load):
    run = Run()
    assert run.all(load(WALK.replace('port: "8080"', 'port: "8080", protocol: UDP')))[2] is FAILED
    assert "dropped at ingress, default-deny" in run.why()


def test_a_selector_that_selects_nothing_fails_the_phase_that_applies_it(load):
    run = Run()
    finished = run.phase(
        load(WALK.replace("{matchLabels: {app: backend}}, ingress: [{}]", "{matchLabels: {app: bakend}}, ingress: [{}]")), "deny"
    )
    assert finished.outcome is FAILED
    (finding,) = [finding for finding in finished.findings if finding.fails]
    assert (finding.kind, finding.ref.name) == ("inert", "deny")


def test_empty_ingress_lists_enforce_nothing_and_say_so(load):
    run = Run()
    finished = run.phase(load(WALK.replace("ingress: [{}]", "ingress: []")), "deny")
    assert finished.outcome is FAILED
    (finding,) = [finding for finding in finished.findings if finding.fails]
    assert finding.kind == "rejected"
    assert "at least one of" in finding.message


def test_an_inert_policy_fails_though_every_check_passes(load):
    nothing = WALK.replace("app: backend}}, ingress: [{}]", "app: nobody}}, ingress: [{}]").replace(
        '{deny: "frontend, intruder -> backend:8080", reason: default-deny, at: ingress}', "allow: frontend, intruder -> backend:8080"
    )
    run = Run()
    finished = run.phase(load(nothing), "deny")
    assert finished.outcome is FAILED
    assert {event.result.judgement.outcome for event in run.of(CheckFinished)} == {PASSED}


def test_a_policy_that_no_expectation_needs_is_reported_but_does_not_fail(load):
    spare = WALK.replace(
        "        expect:\n          - {allow:",
        "          - apiVersion: cilium.io/v2\n            kind: CiliumNetworkPolicy\n            metadata: {name: spare}\n"
        "            spec: {endpointSelector: {matchLabels: {app: intruder}}, ingress: [{fromEntities: [world]}]}\n"
        "        expect:\n          - {allow:",
    )
    finished = Run().phase(load(spare), "allow")
    assert finished.outcome is PASSED
    assert [(finding.kind, finding.ref.name, finding.fails) for finding in finished.findings] == [("uncovered", "spare", False)]


def test_a_policy_that_a_later_phase_needs_is_covered(load):
    early = WALK.replace(
        "            spec: {endpointSelector: {matchLabels: {app: backend}}, ingress: [{}]}\n",
        "            spec: {endpointSelector: {matchLabels: {app: backend}}, ingress: [{}]}\n"
        "          - apiVersion: cilium.io/v2\n            kind: CiliumNetworkPolicy\n            metadata: {name: early}\n"
        "            spec: {endpointSelector: {matchLabels: {app: frontend}}, ingress: [{}]}\n",
    ).replace("      frontend: {labels: {app: frontend}}", "      frontend: {labels: {app: frontend}, ports: [7000]}")
    early = early.rstrip() + "\n          - {deny: 'intruder -> frontend:7000', reason: default-deny}\n"
    finished = Run().phase(load(early), "deny")
    assert (finished.outcome, finished.findings) == (PASSED, ())


def test_without_coverage_nothing_is_reported_of_it(load):
    finished = Run(coverage=False).phase(load(WALK.replace('{deny: "frontend, intruder', '{deny: "frontend')), "allow")
    assert finished.findings == ()


# Evidence that is missing


def on_main(change: Callable[[Observation], Observation | None]) -> Callable[[Observation], Observation | None]:
    return lambda seen: seen if seen.probe.liveness else change(seen)


def killed(seen: Observation) -> Observation:
    """The server is gone: refused from inside, and silence or a refusal from elsewhere."""
    if seen.result.ending is Ending.ANSWERED:
        return replace(seen, result=replace(seen.result, ending=Ending.REFUSED, server="", nonce="", server_saw=False))
    return seen


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        (killed, "refused"),
        (on_main(lambda seen: replace(seen, flows=())), "no flow"),
        (on_main(lambda seen: replace(seen, lost=(LostEvents(1),))), "lost"),
        (on_main(lambda _: None), "reported nothing"),
        (on_main(lambda seen: replace(seen, flows_on=False)), "got lost"),
    ],
    ids=["server killed", "flows discarded", "events lost", "never reported", "stream lost"],
)
def test_missing_evidence_is_unknown_under_allow_as_under_deny(load, fault, word):
    run = Run(Faulty(fault))
    assert run.all(load(WALK)) == [UNKNOWN, UNKNOWN, UNKNOWN]
    assert word in run.why()
    assert {event.result.judgement.outcome for event in run.of(CheckFinished)} == {UNKNOWN}


def test_a_dead_server_makes_a_deny_unknown_even_where_its_baseline_held(load):
    dead: list[bool] = []
    cluster = Faulty(lambda seen: killed(seen) if dead else seen)
    run, case = Run(cluster), load(WALK)
    assert run.phase(case, "baseline").outcome is PASSED
    dead.append(True)
    assert run.phase(case, "deny").outcome is UNKNOWN
    assert "from inside shop/backend, its own port 8080/TCP ended refused" in run.why()


def test_a_baseline_that_failed_makes_what_rests_on_it_unknown(load):
    first: list[int] = []

    def silent_at_first(seen: Observation) -> Observation:
        first.append(seen.probe.id)
        return replace(seen, flows=()) if len(first) <= 1 else seen

    run, case = Run(Faulty(silent_at_first)), load(WALK)
    assert run.all(case) == [UNKNOWN, UNKNOWN, UNKNOWN]
    judged = {(event.phase, event.result.source): event.result.judgement.outcome for event in run.of(CheckFinished)}
    assert judged["deny", "frontend"] is UNKNOWN
    assert judged["deny", "intruder"] is PASSED
    assert "the baseline did not hold: frontend -> backend:8080/TCP unknown" in run.why()


def test_a_replayed_baseline_counts_through_the_gate(load):
    first: list[int] = []

    def silent_at_first(seen: Observation) -> Observation:
        first.append(seen.probe.id)
        return replace(seen, flows=()) if len(first) <= 1 else seen

    run = Run(Faulty(silent_at_first))
    assert run.phase(load(WALK), "deny").outcome is UNKNOWN


def test_failed_outweighs_unknown(load):
    wide = WALK.replace("fromEndpoints: [{matchLabels: {app: frontend}}]", "fromEndpoints: [{}]")

    def blind_to_frontend(seen: Observation) -> Observation:
        return replace(seen, flows=()) if seen.probe.site.name == "shop/frontend" else seen

    run = Run(Faulty(blind_to_frontend))
    assert run.phase(load(wide), "allow").outcome is FAILED
    assert {event.result.judgement.outcome for event in run.of(CheckFinished) if event.phase == "allow"} == {FAILED, UNKNOWN}


# Proven, and not


def test_a_deny_is_proven_by_an_answer_seen_earlier(load):
    run = Run()
    run.all(load(WALK))
    assert not any(event.result.unproven for event in run.of(CheckFinished))


def test_a_deny_that_was_never_seen_answered_is_marked(load):
    run = Run()
    run.all(load(WALK.replace("- allow: frontend, intruder -> backend", "- allow: frontend -> backend")))
    assert {event.result.source for event in run.of(CheckFinished) if event.result.unproven} == {"intruder"}


# What the cluster lacks


def test_a_phase_that_the_cluster_cannot_run_is_skipped_with_the_reason(load):
    case = load(WALK.replace("      deny:\n", "      deny:\n        requires: {features: [wireguard]}\n"))
    run = Run()
    skipped = run.session.run_phase(case, "deny")
    assert isinstance(skipped, PhaseSkipped)
    assert skipped.reason == "requires wireguard: nothing is sent, so nothing is encrypted"
    assert run.of(PhaseSkipped) == [skipped]


def test_a_case_that_the_cluster_cannot_run_deploys_nothing(load):
    case = load(WALK.replace("    namespace: shop\n", '    namespace: shop\n    requires: {cilium: ">=1.99"}\n'))
    run = Run()
    assert isinstance(run.session.run_phase(case, "baseline"), PhaseSkipped)
    assert run.of(CasePrepared) == []


def test_the_changes_of_a_skipped_phase_come_with_the_next(load):
    case = load(WALK.replace("      deny:\n", "      deny:\n        requires: {features: [wireguard]}\n"))
    run = Run()
    assert run.phase(case, "allow").outcome is PASSED
    assert run.of(PoliciesApplied)[-1].applied == ("CiliumNetworkPolicy/shop/deny", "CiliumNetworkPolicy/shop/backend")


# The cluster breaks


class Broken(MemoryCluster):
    def __init__(self) -> None:
        super().__init__()
        self.broken = False

    def apply(self, change: Change) -> int:
        if self.broken:
            raise ClusterError("the lab is gone", hint="look at its log")
        return super().apply(change)


def test_a_cluster_that_breaks_makes_the_phase_unknown_and_the_next_starts_anew(load):
    cluster = Broken()
    run, case = Run(cluster), load(WALK)
    assert run.phase(case, "baseline").outcome is PASSED
    cluster.broken = True
    finished = run.phase(case, "deny")
    assert finished.outcome is UNKNOWN
    assert "the lab is gone" in finished.error
    assert "look at its log" in finished.error
    cluster.broken = False
    assert run.phase(case, "allow").outcome is PASSED
    assert len(run.of(CasePrepared)) == 2


class Particular(MemoryCluster):
    """A cluster that has nothing for a case of a certain name, and something to tell of itself."""

    notes = ("somebody else's policy is here",)

    def capabilities_for(self, case: Case) -> Capabilities:
        if case.name != "only the frontend reaches the backend":
            return self.capabilities
        return replace(
            self.capabilities, features=self.capabilities.features - {"clusterwide"}, lacking={"clusterwide": "not for this one"}
        )


def test_what_a_cluster_has_may_depend_on_the_case(load):
    wide = WALK.replace("phases:", "requires: {features: [clusterwide]}\n    phases:")
    run = Run(Particular())
    assert run.session.run_phase(load(wide), "baseline").reason == "requires clusterwide: not for this one"
    assert run.phase(load(wide.replace("case: ", "case: another ", 1)), "baseline").outcome is PASSED


def test_what_a_cluster_has_to_tell_is_in_the_notes_of_the_run():
    assert "somebody else's policy is here" in Run(Particular()).events[0].notes


def test_a_phase_about_a_family_that_the_cluster_lacks_is_skipped_with_the_reason(load):
    class OnlyIPv6(MemoryCluster):
        def __init__(self) -> None:
            super().__init__()
            self.capabilities = replace(self.capabilities, lacking={**self.capabilities.lacking, "ipv4": "enable-ipv4 is 'false'"})

    run = Run(OnlyIPv6())
    assert run.session.run_phase(load(WALK), "baseline").reason == "requires ipv4: enable-ipv4 is 'false'"
    text = WALK.replace("- allow: frontend, intruder -> backend:8080", "- {allow: 'frontend, intruder -> backend:8080', family: ipv6}")
    assert run.phase(load(text), "baseline").outcome is PASSED


# Flows


def test_flows_that_are_required_and_missing_are_an_error_at_the_start():
    class Deaf(MemoryCluster):
        simulated = False

    with pytest.raises(FlowsUnavailableError, match="no Hubble Observer"):
        Run(Deaf(flows=False))


def test_auto_says_at_the_start_what_it_decided():
    class Deaf(MemoryCluster):
        simulated = False

    assert Run(Deaf(flows=False), hubble=Hubble.AUTO).events[0].hubble == "auto:off"
    assert Run(hubble=Hubble.AUTO).events[0].hubble == "auto:on"


def test_packets_only_is_said_and_judges_without_flows(load):
    run = Run(MemoryCluster(flows=False), hubble=Hubble.OFF)
    assert any("packets only" in note for note in run.events[0].notes)
    assert run.phase(load(WALK), "baseline").outcome is PASSED


def test_simulated_is_said():
    started = Run().events[0]
    assert started.simulated
    assert any("simulated" in note for note in started.notes)


# The model beside every outcome


def test_the_prediction_stands_beside_every_outcome(load):
    run = Run()
    run.all(load(WALK))
    results = [event.result for event in run.of(CheckFinished)]
    assert all(result.prediction is not None and not result.disagreement for result in results)


def test_where_model_and_cluster_disagree_it_is_said(load):
    run = Run(
        Faulty(
            on_main(
                lambda seen: replace(seen, flows=tuple(replace(flow, drop_reason=181) for flow in seen.flows if flow.dropped) or seen.flows)
            )
        )
    )
    run.phase(load(WALK), "deny")
    said = [event.result.disagreement for event in run.of(CheckFinished) if event.phase == "deny"]
    assert all("the model says default-deny at ingress" in each and "deny-rule" in each for each in said)


# Python tests


def test_a_python_test_drives_the_same_session(load):
    case = load(WALK)
    run = Run()
    policies = case.phases[1].apply
    run.session.open_case(case)

    def expect(text: str):
        expectation = parse_expectation(text, case, policies, Location(__file__, 1))
        return [result.judgement.outcome for result in run.session.check(expectation)]

    assert expect("allow: frontend -> backend:8080") == [PASSED]
    run.session.apply(Change(apply=policies))
    assert expect("deny: frontend -> backend:8080") == [PASSED]
    assert expect("allow: frontend -> backend:8080") == [FAILED]
    run.session.apply(Change(remove=(policies[0].ref,)))
    assert expect("allow: frontend, intruder -> backend:8080") == [PASSED, PASSED]


def test_without_an_open_case_there_is_nothing_to_change():
    with pytest.raises(UsageError, match="no case is open"):
        Run().session.apply(Change())


# Events


def test_every_event_survives_the_way_to_the_controller(load):
    run = Run()
    run.all(load(WALK))
    run.session.close()
    assert [load_back(event) for event in run.events] == run.events


def load_back(event: Event) -> Event:
    return load_event(dump(event))


def test_the_policies_in_force_travel_as_text(load):
    run = Run()
    run.all(load(WALK))
    texts = run.of(PoliciesApplied)[-1].policies
    assert set(texts) == {"CiliumNetworkPolicy/shop/deny", "CiliumNetworkPolicy/shop/backend"}
    assert "fromEndpoints:" in texts["CiliumNetworkPolicy/shop/backend"]


@pytest.mark.parametrize("audit", [False, True])
def test_the_sides_that_can_change_what_an_answer_means_are_waited_for(load, audit):
    """Where a policy must be named, and where audit mode may have let it through: there the verdict of every enforcing side counts."""
    cluster = Watching(audit=audit)
    run = Run(cluster)
    run.phase(load(WALK), "allow")
    awaited = {probe.site.name: probe.awaited for probe in cluster.sent if not probe.liveness}  # the last phase's
    assert awaited == {"shop/frontend": {Direction.INGRESS}, "shop/intruder": {Direction.INGRESS} if audit else frozenset()}


def test_a_phase_that_sent_nothing_has_not_passed(load):
    """Its derived requirements see to it that it is skipped; should they ever miss something, it must not turn green."""
    case = load("""
        case: over six
        endpoints:
          client: {labels: {app: client}}
          server: {labels: {app: server}, ports: [8080]}
        phases:
          baseline:
            - {allow: "client -> server:8080", family: ipv6}
    """)
    case = replace(case, phases=tuple(replace(phase, requires=Requirements()) for phase in case.phases))
    run = Run(Watching())
    run.cluster.capabilities = replace(run.cluster.capabilities, features=run.cluster.capabilities.features - {"ipv6"})
    finished = run.phase(case, "baseline")
    assert (finished.outcome, finished.checks) == (Outcome.UNKNOWN, 0)
    assert "nothing was sent" in finished.error
