"""Labels of nodes: what a nodeSelector goes by."""

from __future__ import annotations

import pytest

from harness.cases.state import cluster_state
from harness.policy.evaluate import Evaluator
from harness.policy.options import Options
from harness.policy.repository import Repository
from tests.cases.case_folder import Folder

CASE = """\
case: x
nodes: {NODES}
endpoints:
  web: {}
  api: {ports: [8080]}
phases: {p: [allow: web -> api:8080]}
"""


def test_a_node_has_the_labels_of_the_case_as_they_are_written_and_the_others_none(folder: Folder):
    case = folder.case(CASE.replace("NODES", "a: {role: edge, canary: no}"))
    assert dict(cluster_state(case).nodes) == {"a": {"role": "edge", "canary": "no"}, "b": {}}
    assert dict(cluster_state(case, {"a": "worker-1", "b": "worker-2"}).nodes) == {
        "worker-1": {"role": "edge", "canary": "no"},
        "worker-2": {},
    }


def test_a_policy_of_nodes_selects_them_by_it(folder: Folder):
    case = folder.case(CASE.replace("NODES", "a: {role: edge}, b: {role: internal}"))
    policy = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": "edge"},
        "spec": {"nodeSelector": {"matchLabels": {"role": "edge"}}, "ingress": [{}]},
    }
    evaluator = Evaluator(cluster_state(case), Repository.empty(Options(host_firewall=True)).change([], [policy]))
    assert evaluator.status(evaluator.repository.enforced[0].ref).selects == ("a",)


def test_a_third_node_is_there_and_required_though_no_pod_is_on_it(folder: Folder):
    case = folder.case(CASE.replace("NODES", "c: {role: edge}"))
    assert "nodes-3" in case.requires.features
    assert list(cluster_state(case).nodes) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("nodes", "caret", "message"),
    [
        ("worker-1: {role: edge}", "worker-1", "`worker-1` is no abstract node"),
        ("a: {role: 'not a value!'}", "'not a value!'", "not a value!"),
    ],
)
def test_a_mistake_is_shown_where_it_is(folder: Folder, nodes: str, caret: str, message: str):
    found = folder.mistake(CASE.replace("NODES", nodes))
    assert (found.line, found.caret) == (2, caret)
    assert message in found.message
