"""The roles in docs/rbac grant what a run asks for, and nothing that nobody asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness.clusters.kubernetes.permissions import CLUSTERWIDE, NEEDED

ROLES = Path(__file__).parents[3] / "docs" / "rbac"


def granted(name: str) -> set[tuple[str, str, str]]:
    role = yaml.safe_load((ROLES / name).read_text())
    return {
        (verb, resource, group)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize(("name", "wanted"), [("run.yaml", NEEDED), ("clusterwide.yaml", CLUSTERWIDE)])
def test_a_role_grants_exactly_what_is_checked_at_the_start(name, wanted):
    # The list of policies only tells whether this is Cilium, where nothing else does.
    spare = {("list", "ciliumnetworkpolicies", "cilium.io")}
    assert granted(name) - spare == {(each.verb, each.resource, each.group) for each in wanted}


def test_exec_has_both_of_its_verbs_wherever_it_is_granted():
    for name in ("run.yaml", "observe.yaml"):
        verbs = {verb for verb, resource, _ in granted(name) if resource == "pods/exec"}
        assert verbs == {"get", "create"}
