"""`harness predict` asked about manifests: answers, exit codes, and mistakes with their places."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main

POLICY = """\
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
"""
WORKLOADS = """\
kind: List
items:
  - {kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}}
  - {kind: Pod, metadata: {name: api, namespace: shop, labels: {app: api}}}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "api.yaml").write_text(POLICY)
    (tmp_path / "workloads.yaml").write_text(WORKLOADS)
    return tmp_path


def ask(files: Path, *questions: str, workloads: str = "workloads.yaml", stdin: str | None = None):
    source = workloads if workloads == "-" else str(files / workloads)
    return CliRunner().invoke(main, ["predict", str(files / "policies"), "-f", source, *questions], input=stdin)


@pytest.mark.parametrize(
    ("question", "code", "line"),
    [
        ("shop/web -> shop/api:8080 GET /public", 0, "allow: "),
        ("shop/web -> shop/api:8080 GET /admin", 1, "deny: "),
        ("shop/web -> shop/api:8080/udp", 1, "deny: "),
        ("world:192.0.2.1 -> shop/api:8080", 1, "deny: "),
        ("shop/api -> shop/web:80", 0, "allow: "),
    ],
)
def test_one_question_gets_one_line_and_an_exit_code(files: Path, question: str, code: int, line: str) -> None:
    result = ask(files, question)
    assert (result.exit_code, result.output.startswith(line + question)) == (code, True), result.output


def test_one_denied_among_several_is_exit_code_1(files: Path) -> None:
    result = ask(files, "shop/api -> shop/web:80", "shop/web -> shop/api:81", workloads="-", stdin=WORKLOADS)
    assert result.exit_code == 1
    assert [line.split(":")[0] for line in result.output.splitlines()] == ["allow", "deny"]


def test_without_a_question_every_declared_port_of_every_pair_is_answered(files: Path) -> None:
    (files / "workloads.yaml").write_text(
        WORKLOADS
        + """\
  - kind: Deployment
    metadata: {name: other, namespace: shop}
    spec:
      template:
        metadata: {labels: {app: other}}
        spec: {containers: [{ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP}]}]}
"""
    )
    result = ask(files)
    assert result.exit_code == 0
    assert [line.split(" (")[0] for line in result.output.splitlines()] == [
        f"allow: shop/{source} -> shop/other:{port}" for source in ("web", "api") for port in ("80", "53/udp")
    ]


def test_json_names_the_rules_that_decided(files: Path) -> None:
    result = ask(files, "shop/web -> shop/api:8080 GET /public", "-o", "json")
    answer = json.loads(result.output)
    assert answer["ingress"]["rules"] == ["CiliumNetworkPolicy/shop/api ingress[0]"]
    assert (answer["verdict"], answer["l7"], answer["egress"]["rules"]) == ("allow", "allow", [])


def test_nothing_to_answer_is_not_a_success(files: Path) -> None:
    result = ask(files)
    assert result.exit_code == 2
    assert "declares a port" in result.output


def test_mistakes_are_exit_code_2(files: Path) -> None:
    for question in ("shop/web -> shop/api", "shop/web -> shop/nobody:1", "shop/web -> world:x:1", "a -> b:70000"):
        assert ask(files, question).exit_code == 2, question
    assert CliRunner().invoke(main, ["predict", str(files / "policies")]).exit_code == 2


@pytest.mark.parametrize("text", ["kind: Pod\nmetadata: {name: a}\n", "kind: ConfigMap\nmetadata: {name: a}\n", "kind: [\n", "- 1\n"])
def test_bad_workloads_are_told_with_file_and_line(files: Path, text: str) -> None:
    (files / "bad.yaml").write_text(text)
    result = ask(files, "a -> b:1", workloads="bad.yaml")
    assert result.exit_code == 2
    assert "bad.yaml:" in result.output


def test_a_refused_policy_is_warned_of(files: Path) -> None:
    (files / "policies" / "empty.yaml").write_text(
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: e}, spec: {endpointSelector: {}, ingress: []}}"
    )
    assert "CiliumNetworkPolicy/default/e is refused" in ask(files, "shop/api -> shop/web:80").output


def test_a_missing_file_is_said_before_the_missing_question(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["predict", str(tmp_path / "none.yaml")])
    assert result.exit_code == 2
    assert "none.yaml" in result.output
    assert "ask something" not in result.output
