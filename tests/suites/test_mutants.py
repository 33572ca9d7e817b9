"""The mistakes themselves: one for each part of a policy, each at its own place, and none that leaks into another mutant."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from msgspec.structs import replace

from harness.cases.case import Action
from harness.cases.load import find_case_files, load_cases
from harness.policy.options import Options
from tests.suites.mutants import Kind, mutants, variants
from tests.suites.oracle import Oracle

SUITES = Path(__file__).parents[2] / "suites"
CASES = {case.name: case for path in find_case_files(SUITES) for case in load_cases(path)}

POLICY = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumNetworkPolicy",
    "metadata": {"name": "p", "namespace": "default"},
    "specs": [
        {
            "endpointSelector": {"matchLabels": {"app": "web"}},
            "ingress": [
                {},
                {
                    "fromEndpoints": [{"matchExpressions": [{"key": "k8s:app", "operator": "In", "values": ["a", "b"]}]}],
                    "toPorts": [{"ports": [{"port": "80"}, {"port": "81"}]}],
                },
            ],
            "egress": [
                {"toPorts": [{"rules": {"http": [{"method": "GET", "path": "/"}], "dns": [{"matchName": "x"}]}, "serverNames": ["y"]}]}
            ],
            "egressDeny": [{"toCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}], "icmps": [{"fields": [{"type": 8}]}]}],
        }
    ],
}


def test_every_part_of_a_policy_has_its_mistake() -> None:
    found = [(kind, path) for kind, path, _ in variants(POLICY, {"app": ["a", "b"]})]
    first = "specs[0].ingress[1]"
    requests = "specs[0].egress[0].toPorts[0]"
    deny = "specs[0].egressDeny[0]"
    assert found == [
        (Kind.RULE, "specs[0].ingress[0]"),
        (Kind.RULE, first),
        (Kind.PEER, f"{first}.fromEndpoints[0]"),
        (Kind.PORT, f"{first}.toPorts[0]"),
        (Kind.PORT, f"{first}.toPorts[0].ports[0]"),
        (Kind.PORT, f"{first}.toPorts[0].ports[1]"),
        (Kind.RULE, "specs[0].egress[0]"),
        (Kind.PORT, requests),
        (Kind.REQUEST, f"{requests}.rules.http[0]"),
        (Kind.REQUEST, f"{requests}.rules.http[0].method"),
        (Kind.REQUEST, f"{requests}.rules.http[0].path"),
        (Kind.REQUEST, f"{requests}.rules.dns[0]"),
        (Kind.REQUEST, f"{requests}.serverNames[0]"),
        (Kind.RULE, deny),
        (Kind.PEER, f"{deny}.toCIDRSet[0]"),
        (Kind.PEER, f"{deny}.toCIDRSet[0].except[0]"),
        (Kind.PORT, f"{deny}.icmps[0]"),
        (Kind.PORT, f"{deny}.icmps[0].fields[0]"),
        (Kind.SWAP, "specs[0].endpointSelector.matchLabels.app"),
        (Kind.TYPO, "specs[0].endpointSelector.matchLabels.app"),
        (Kind.SWAP, f"{first}.fromEndpoints[0].matchExpressions[0].values[0]"),
        (Kind.TYPO, f"{first}.fromEndpoints[0].matchExpressions[0].values[0]"),
        (Kind.SWAP, f"{first}.fromEndpoints[0].matchExpressions[0].values[1]"),
        (Kind.TYPO, f"{first}.fromEndpoints[0].matchExpressions[0].values[1]"),
    ]


def test_a_mistake_changes_a_copy() -> None:
    before = copy.deepcopy(POLICY)
    documents = [document for _, _, document in variants(POLICY, {"app": ["a"]})]
    assert before == POLICY
    assert all(document != POLICY for document in documents)
    assert all(left != right for index, left in enumerate(documents) for right in documents[index + 1 :])


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_mutant_differs_from_its_case_in_policies_only_and_from_its_first_phase_on(name) -> None:
    case = CASES[name]
    for mutant in mutants(case):
        assert mutant.case.endpoints is case.endpoints
        assert mutant.case.phases[: mutant.first] == case.phases[: mutant.first]
        assert mutant.case.phases[mutant.first].policies != case.phases[mutant.first].policies
        assert [phase.expectations for phase in mutant.case.phases] == [phase.expectations for phase in case.phases]


def test_what_is_in_force_in_an_unchanged_case_is_worked_out_as_the_loader_does() -> None:
    """Dropping a policy that is removed or replaced later must leave the rest as it was, so the bookkeeping has to be the same."""
    case = CASES["a policy of the same name replaces the former"]
    second = next(mutant for mutant in mutants(case) if mutant.kind is Kind.POLICY and mutant.first == 2)
    assert second.case.phases[2].policies == case.phases[1].policies


def test_a_vague_case_has_mistakes_that_change_nothing() -> None:
    """The measure can fail: without its denied expectations, a case no longer notices a rule that is too wide."""
    case = CASES["a port range includes both its ends"]
    phases = tuple(
        replace(phase, expectations=tuple(each for each in phase.expectations if each.action is Action.ALLOW)) for phase in case.phases
    )
    vague = replace(case, phases=phases)
    oracle = Oracle(vague, Options())
    before = oracle.readings(vague)
    unnoticed = {mutant.path for mutant in mutants(vague) if oracle.readings(mutant.case) == before}
    assert "spec.ingress[0].toPorts[0]" in unnoticed
