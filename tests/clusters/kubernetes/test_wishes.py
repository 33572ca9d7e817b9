"""What a user wishes for the test pods, from an option's text to the pods' manifests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubernetes.client import V1Taint

from harness.cases.load import load_cases
from harness.clusters.kubernetes.objects import case_objects
from harness.clusters.kubernetes.rename import Renaming
from harness.clusters.kubernetes.run import RunId
from harness.clusters.kubernetes.wishes import PodOptions, PullSecret, Toleration, node_selector, pull_policy, pull_secrets, tolerations
from harness.errors import UsageError
from harness.model.traffic import PodRef


def test_tolerations_are_read_as_kubectl_writes_taints():
    assert tolerations("dedicated=tests:NoSchedule, gpu:NoExecute,spot=,any") == (
        Toleration("dedicated", "tests", "NoSchedule"),
        Toleration("gpu", None, "NoExecute"),
        Toleration("spot", ""),
        Toleration("any"),
    )


@given(
    st.builds(Toleration, st.sampled_from(["a", "b"]), st.sampled_from([None, "", "x"]), st.sampled_from(["", "NoSchedule", "NoExecute"]))
)
def test_a_toleration_is_its_text_and_its_manifest(toleration):
    value = "" if toleration.value is None else f"={toleration.value}"
    effect = f":{toleration.effect}" if toleration.effect else ""
    assert tolerations(f"{toleration.key}{value}{effect}") == (toleration,)
    manifest = toleration.manifest()
    assert manifest.get("value") == toleration.value
    assert manifest["operator"] == ("Exists" if toleration.value is None else "Equal")


@pytest.mark.parametrize(
    ("text", "covered"),
    [
        ("dedicated=tests:NoSchedule", True),
        ("dedicated=tests", True),
        ("dedicated", True),
        ("dedicated=other", False),
        ("dedicated=tests:NoExecute", False),
        ("other=tests:NoSchedule", False),
    ],
)
def test_a_toleration_covers_its_own_taint_only(text, covered):
    (toleration,) = tolerations(text)
    assert toleration.covers(V1Taint(key="dedicated", value="tests", effect="NoSchedule")) is covered


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (tolerations, "a b"),
        (tolerations, ":NoSchedule"),
        (tolerations, "a:"),
        (node_selector, "=x"),
        (node_selector, "a=b=c"),
        (pull_secrets, "Upper"),
        (pull_secrets, "/name"),
        (pull_policy, ""),
    ],
)
def test_what_kubernetes_would_refuse_is_refused_before(read, text):
    with pytest.raises(UsageError):
        read(text)


def test_nothing_is_nothing():
    assert (tolerations(""), node_selector(" , "), pull_secrets("")) == ((), (), ())


def test_wishes_reach_every_pod_and_secrets_every_namespace(tmp_path):
    path = tmp_path / "test_two.yaml"
    path.write_text("case: x\nnamespace: shop\nendpoints: {a: {}, b: {namespace: dev, ports: [80]}}\nphases: {p: [{allow: 'a -> b:80'}]}\n")
    (case,) = load_cases(path)
    wishes = PodOptions(
        "registry.example/python:3",
        "Always",
        (PullSecret("registry", "ci"),),
        (Toleration("dedicated", "tests", "NoSchedule"),),
        (("pool", "tests"),),
    )
    renaming = Renaming.of(case.namespaces, "k7x2qd-1")
    placed = {PodRef("shop", "a"): "node-a", PodRef("dev", "b"): "node-b"}
    secret = {"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="}}
    objects = case_objects(case, renaming, RunId(), placed, wishes, allow_host=False, secrets={"registry": secret})
    for pod in objects.pod_objects:
        spec = pod["spec"]
        assert spec["imagePullSecrets"] == [{"name": "registry"}]
        assert spec["tolerations"] == [{"key": "dedicated", "operator": "Equal", "value": "tests", "effect": "NoSchedule"}]
        assert spec["nodeSelector"]["pool"] == "tests"
        assert (spec["containers"][0]["image"], spec["containers"][0]["imagePullPolicy"]) == ("registry.example/python:3", "Always")
    assert {each["metadata"]["namespace"] for each in objects.secrets} == set(renaming.namespaces.values())
    assert all(each["data"] == secret["data"] for each in objects.secrets)
