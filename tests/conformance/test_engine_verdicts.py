"""The model agrees with Cilium's own policy engine on every recorded flow, and on which policies are refused by whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from harness.model.traffic import Direction
from harness.policy.scenario import decode_scenario
from tests.conformance.vectors import VERSIONS, Vector, engine_faults, scenarios, spec_cases, stages

FLOWS = {"scenarios": 96_000, "spec_cases": 504}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("source", [scenarios, spec_cases], ids=["scenarios", "spec_cases"])
def test_every_verdict_and_every_refusal_is_the_engines(source: Callable[[str], Iterator[Vector]], version: str) -> None:
    disagreements = []
    refusals = []
    faults = count = 0
    for vector in source(version):
        scenario = decode_scenario(vector.document)
        if stages(scenario.policy_errors) != vector.policy_errors:
            refusals.append(f"{vector.id}: {scenario.policy_errors}, not {vector.policy_errors}")
        for index, (flow, expected) in enumerate(zip(scenario.flows, vector.verdicts, strict=True)):
            answer = scenario.answer(flow)
            count += 1
            for side in ("egress", "ingress"):
                mine = "allow" if answer[side] == "auth" else answer[side]
                if mine == expected[side]:
                    continue
                if f"{version}/{vector.id}/{index}/{side}" in engine_faults():
                    faults += 1
                else:
                    disagreements.append(f"{vector.id} {flow} {side}: {answer[side]}, not {expected[side]}")
    assert not refusals
    assert not disagreements, f"{len(disagreements)} of {count} flows"
    assert count == FLOWS[source.__name__]
    assert faults == sum(key.startswith(f"{version}/") for key in engine_faults())


@pytest.mark.parametrize("version", VERSIONS)
def test_the_quick_answer_is_the_evaluators(version: str) -> None:
    for index, vector in enumerate(scenarios(version)):
        if index % 16:
            continue
        scenario = decode_scenario(vector.document)
        for flow in scenario.flows:
            verdict = scenario.evaluator.verdict(scenario.traffic(flow))
            answer = scenario.answer(flow)
            assert answer["egress"] == verdict.egress.decision
            assert answer["ingress"] == verdict.ingress.decision
            assert answer["verdict"] == verdict.verdict


@pytest.mark.parametrize("version", VERSIONS)
def test_whoever_denies_or_allows_by_a_rule_is_named(version: str) -> None:
    """A deny rule's verdict names deny rules of applied policies, an allow under policy the allows, default deny none."""
    for index, vector in enumerate(scenarios(version)):
        if index % 16:
            continue
        scenario = decode_scenario(vector.document)
        known = {policy.ref for policy in scenario.evaluator.repository.enforced}
        for flow in scenario.flows:
            traffic = scenario.traffic(flow)
            for direction in Direction:
                side = scenario.evaluator.direction(traffic, direction)
                named = {rule.policy for rule in side.rules if rule.policy.kind != "reserved"}
                assert named <= known
                assert set(side.selecting) <= known
                paths = [rule.path.rpartition(".")[2] if rule.path.startswith("specs") else rule.path for rule in side.rules]
                if side.decision == "deny-rule":
                    assert paths
                    assert all(path.startswith(f"{direction.value}Deny[") for path in paths)
                elif side.decision == "default-deny":
                    assert not side.rules
                    assert side.selecting
                elif side.decision == "allow" and side.enforced:
                    assert paths
                    assert all(path.startswith((f"{direction.value}[", "allow-")) for path in paths)
                else:
                    assert not side.rules
