"""`harness predict` without a question: who reaches whom, held to the evaluator, in every form."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.cli.main import main

POLICIES = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: api}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: web}}]
      toPorts:
        - ports: [{port: "8080", protocol: TCP}]
          rules: {http: [{method: GET, path: /public}]}
    - fromCIDR: [203.0.0.0/8]
      toPorts: [{ports: [{port: "53", protocol: UDP}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {matchLabels: {app: db}}, policyTypes: [Ingress, Egress]}
"""
WORKLOADS = """\
kind: List
items:
  - {kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}}
  - {kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}}, spec: {containers: [{ports: [{containerPort: 5432}]}]}}
  - kind: Deployment
    metadata: {name: api, namespace: shop}
    spec:
      template:
        metadata: {labels: {app: api}}
        spec: {containers: [{ports: [{containerPort: 8080}, {containerPort: 53, protocol: UDP}]}]}
  - {kind: Pod, metadata: {name: probe, namespace: ops, labels: {app: probe}}}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "policies.yaml").write_text(POLICIES)
    (tmp_path / "workloads.yaml").write_text(WORKLOADS)
    return tmp_path


def predict(files: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["predict", str(files / "policies.yaml"), "-f", str(files / "workloads.yaml"), *words])


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_a_line_for_each_target_and_port_says_who_reaches_it(files: Path) -> None:
    result = predict(files)
    assert result.exit_code == 0, result.output
    assert [cells(line) for line in result.output.splitlines()] == [
        ["TO", "PORT", "ALLOWED FROM", "EACH REQUEST JUDGED FROM", "DENIED FROM"],
        ["shop/api", "53/UDP", "host", "-", "all others"],
        ["8080", "host", "shop/web", "all others"],
        ["shop/db", "5432", "host", "-", "all others"],
    ]


def test_every_cell_is_what_the_question_about_it_answers(files: Path) -> None:
    made = json.loads(predict(files, "-o", "json", "--port", "443").output)
    asked = 0
    for row in made["rows"]:
        for outcome, sources in row["from"].items():
            for source in sources:
                for target in row["targets"]:
                    if source == target:
                        continue
                    question = f"{source} -> {target}:{row['port']}/{row['protocol']}"
                    answer = json.loads(predict(files, question, "-o", "json").output)
                    assert answer["verdict"] == ("deny" if outcome == "deny" else "allow"), question
                    asked += 1
    assert asked == 5 * 6 + 3 * 6, "four pods and the world on 443, three declared ports, each from six others"


def test_the_world_of_the_table_is_an_address_that_no_policy_names(files: Path) -> None:
    assert not json.loads(predict(files, "-o", "json").output)["world"].startswith("203.")


def test_wide_names_everybody(files: Path) -> None:
    assert "ops/probe, shop/api, shop/web, world, remote-node" in predict(files, "-o", "wide").output


def test_a_thousand_alike_pods_are_one_line(files: Path) -> None:
    items = [
        {
            "kind": "Pod",
            "metadata": {"name": f"p{number:03}", "namespace": f"n{number % 4}", "labels": {"app": "x", "number": str(number)}},
            "spec": {"containers": [{"ports": [{"containerPort": 80}]}]},
        }
        for number in range(1000)
    ]
    (files / "workloads.yaml").write_text(json.dumps({"kind": "List", "items": items}))
    output = predict(files).output
    assert [cells(line)[:3] for line in output.splitlines()[1:]] == [[f"n{each}/* (250)", "80", "everyone"] for each in range(4)]


def test_svg_is_a_document_with_a_cell_for_each_answer(files: Path) -> None:
    root = ET.fromstring(predict(files, "-o", "svg").output)  # noqa: S314 - what we have just written
    titles = [each.text for each in root.iter("{http://www.w3.org/2000/svg}title")]
    assert "shop/web → shop/api:8080: each request judged" in titles
    assert "shop/web → shop/db:5432: denied" in titles


def test_dot_draws_what_passes_and_nothing_else(files: Path) -> None:
    output = predict(files, "-o", "dot").output
    names = {label: node for node, label in re.findall(r'(g\d+) \[label="([^"]+)"\];', output)}
    edges = re.findall(r'(g\d+) -> (g\d+) \[label="([^"]+)", ([^\]]+)\];', output)
    assert (names["shop/web"], names["shop/api"]) in {(source, target) for source, target, _, style in edges if "dashed" in style}
    assert all(source == names["host"] for source, target, _, style in edges if "dashed" not in style)
    assert output.startswith("digraph reachability {")
    assert output.rstrip().endswith("}")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cilium-version", "1.17"), "Cilium 1.17 is not a version"),
        (("--port", "x"), "is no port"),
        (("--enforcement", "maybe"), "maybe"),
        (("-o", "svg", "shop/web -> shop/api:80"), "leave out the questions"),
        (("--scenarios", "-"), "--scenarios hold their own"),
    ],
)
def test_what_cannot_be_asked_is_exit_code_2(files: Path, words: tuple[str, ...], said: str) -> None:
    result = predict(files, *words)
    assert (result.exit_code, said in result.output) == (2, True), result.output


def test_enforcement_decides_who_is_under_default_deny(files: Path) -> None:
    question = "shop/web -> ops/probe:1"
    assert [predict(files, question, *words).exit_code for words in ((), ("--enforcement", "always"))] == [0, 1]
    assert predict(files, "ops/probe -> shop/db:1", "--enforcement", "never").exit_code == 0


def test_the_name_of_the_cluster_is_what_policies_call_it(files: Path) -> None:
    (files / "policies.yaml").write_text(
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: c, namespace: shop}, spec: {endpointSelector: {},"
        " ingress: [{fromEndpoints: [{matchLabels: {io.cilium.k8s.policy.cluster: north}}]}]}}"
    )
    question = "shop/web -> shop/api:8080"
    assert [predict(files, question, *words).exit_code for words in ((), ("--cluster-name", "north"))] == [1, 0]


def test_colour_is_for_terminals_only(files: Path) -> None:
    assert "\x1b" not in predict(files).output + predict(files, "shop/web -> shop/api:8080 GET /public").output


def test_policies_of_nodes_decide_where_the_host_firewall_is_on(files: Path) -> None:
    (files / "nodes.yaml").write_text(
        "{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {name: nodes}, spec: {nodeSelector: {}, ingress: [{}]}}"
    )
    (files / "node.yaml").write_text("{apiVersion: v1, kind: Node, metadata: {name: n1}}")
    words = [
        "predict",
        str(files / "nodes.yaml"),
        "-f",
        str(files / "workloads.yaml"),
        "-f",
        str(files / "node.yaml"),
        "shop/db -> host:22",
    ]
    assert [CliRunner().invoke(main, [*words, *more]).exit_code for more in ((), ("--host-firewall",))] == [0, 1]
