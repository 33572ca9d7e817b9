"""Pods that stand for nodes: where a case speaks of `host` and `remote-node`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.cases.load import load_cases
from harness.clusters.kubernetes.objects import CaseObjects, case_objects
from harness.clusters.kubernetes.rename import Renaming
from harness.clusters.kubernetes.run import RunId
from harness.clusters.kubernetes.wishes import PodOptions
from harness.model.traffic import PodRef

CASE = """
case: nodes
endpoints: {{web: {{node: a, ports: [8080]}}, exporter: {{hostNetwork: true, node: a, ports: [9100]}}}}
phases:
  before: [{{allow: 'exporter -> web:8080'}}]
  nodes: [{{{expectation}}}]
"""


@pytest.fixture
def objects(tmp_path):
    def made(expectation: str, *, allow_host: bool = True, text: str = CASE) -> CaseObjects:
        path = tmp_path / "test_nodes.yaml"
        path.write_text(text.format(expectation=expectation))
        (case,) = load_cases(path)
        placed = {ref: "one" for spec in case.endpoints.values() for ref in spec.pods()}
        renaming = Renaming.of(case.namespaces, "k7x2qd-1")
        return case_objects(case, renaming, RunId(), placed, PodOptions(), allow_host=allow_host, nodes=["one", "two"])

    return made


def served(pod: Any) -> list[int]:
    (value,) = [each["value"] for each in pod["spec"]["containers"][0]["env"] if each["name"] == "HARNESS_PORTS"]
    return [each["port"] for each in json.loads(value)]


def on_nodes(objects: CaseObjects) -> dict[str, Any]:
    there = {objects.pods[ref].name: ref.name for ref in objects.pods if not ref.namespace}
    return {there[pod["metadata"]["name"]]: pod for pod in objects.pod_objects if pod["metadata"]["name"] in there}


def test_where_no_node_is_spoken_of_there_is_no_pod_for_it(objects):
    assert on_nodes(objects("allow: 'exporter -> web:8080'")) == {}


@pytest.mark.parametrize("expectation", ["allow: 'host -> web:8080'", "allow: 'remote-node -> web:8080'", "allow: 'web -> host icmp'"])
def test_each_node_gets_one_in_its_own_network(expectation, objects):
    pods = on_nodes(objects(expectation))
    assert {site: pod["spec"]["nodeSelector"]["kubernetes.io/hostname"] for site, pod in pods.items()} == {
        "node:one": "one",
        "node:two": "two",
    }
    assert all(pod["spec"]["hostNetwork"] for pod in pods.values())


def test_it_serves_what_is_asked_of_the_node_but_for_what_an_endpoint_there_has(objects):
    pods = on_nodes(objects("allow: 'web -> host:9100, host:4000, remote-node:9100'"))
    assert {site: served(pod) for site, pod in pods.items()} == {"node:one": [4000], "node:two": [4000, 9100]}


def test_what_nobody_declares_is_not_served(objects):
    pods = on_nodes(objects("deny: 'web -> host:4000', undeclared: true"))
    assert {site: served(pod) for site, pod in pods.items()} == {"node:one": [], "node:two": []}


def test_two_names_too_long_for_a_pod_are_still_two(objects):
    namespaces = ("n" * 60 + "a", "n" * 60 + "b")
    text = "case: x\nendpoints:\n" + "".join(
        f"  e{at}: {{{{hostNetwork: true, namespace: {name}}}}}\n" for at, name in enumerate(namespaces)
    )
    text += "  web: {{ports: [80]}}\nphases: {{p: [{{allow: 'e0, e1 -> web:80'}}]}}\n"
    names = [there.name for ref, there in objects("", text=text).pods.items() if ref.namespace in namespaces]
    assert len(set(names)) == 2
    assert all(len(name) <= 63 for name in names)


def test_without_the_permission_none_is_made(objects):
    text = "case: x\nendpoints: {{web: {{ports: [80]}}}}\nphases: {{p: [{{allow: 'host -> web:80'}}]}}\n"
    assert list(objects("", text=text, allow_host=False).pods) == [PodRef("default", "web")]
