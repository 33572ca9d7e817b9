"""Clusterwide policies of others: which of them reach the test pods, in namespaces that nobody could have named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.clusters.kubernetes.foreign import interference
from harness.clusters.kubernetes.run import RUN_LABEL
from harness.model.cluster import ClusterState, Pod
from harness.model.traffic import PodRef
from harness.model.verdict import PolicyRef
from harness.policy.evaluate import Evaluator
from harness.policy.options import Options
from harness.policy.repository import Repository

CCNP = "CiliumClusterwideNetworkPolicy"
NAMESPACE = "k8s:io.kubernetes.pod.namespace"
METADATA = "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name"


def policy(selector: object, **metadata: object) -> dict:
    return {"kind": CCNP, "metadata": {"name": "lockdown", **metadata}, "spec": {"endpointSelector": selector, "ingress": [{}]}}


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        ({}, "selects every test pod"),
        ({"matchExpressions": [{"key": NAMESPACE, "operator": "NotIn", "values": ["kube-system"]}]}, "selects every test pod"),
        ({"matchLabels": {"any:app": "web"}}, "selects test pods with app=web"),
        (
            {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}]},
            "selects test pods with app=web and tier In (a, b)",
        ),
    ],
)
def test_one_that_may_select_test_pods_is_named(selector, said):
    note = interference(policy(selector))
    assert note.startswith("CiliumClusterwideNetworkPolicy/lockdown, which was on the cluster before")
    assert said in note


@pytest.mark.parametrize(
    "selector",
    [
        None,
        {"matchLabels": {NAMESPACE: "kube-system"}},
        {"matchLabels": {METADATA: "kube-system", "app": "web"}},
        {"matchExpressions": [{"key": METADATA, "operator": "In", "values": ["a"]}]},
        {"matchExpressions": [{"key": NAMESPACE, "operator": "DoesNotExist"}]},
    ],
)
def test_one_that_cannot_select_any_is_not(selector):
    assert interference(policy(selector)) == ""


def test_a_policy_of_a_run_is_that_runs_own_business():
    assert interference(policy({}, labels={RUN_LABEL: "k7x2qd"})) == ""


# Nobody can have named a run's namespace, which is `fresh` here.
values = st.sampled_from(["elsewhere", "web"])
keys = st.sampled_from([NAMESPACE, METADATA, "k8s:app", "any:app", "app"])
operators = st.sampled_from(["In", "NotIn"])
expressions = st.one_of(
    st.builds(
        lambda key, operator, listed: {"key": key, "operator": operator, "values": listed}, keys, operators, st.lists(values, min_size=1)
    ),
    st.builds(lambda key, operator: {"key": key, "operator": operator}, keys, st.sampled_from(["Exists", "DoesNotExist"])),
)


@given(st.dictionaries(keys, values, max_size=2), st.lists(expressions, max_size=2))
def test_none_that_the_model_finds_selecting_is_left_out(labels, listed):
    chosen = {"matchLabels": labels, "matchExpressions": listed}
    document = policy(chosen)
    state = ClusterState({"fresh": {}}, tuple(Pod(PodRef("fresh", app), {"app": app}, "a") for app in ("web", "elsewhere", "other")))
    repository = Repository.empty(Options.of("1.20")).change([], [document])
    if not repository.errors and Evaluator(state, repository).status(PolicyRef(CCNP, "", "lockdown")).selects:
        assert interference(document)
