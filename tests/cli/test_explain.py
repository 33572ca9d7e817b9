"""`harness explain` on files: what it tells, where it points, its exit codes and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from harness.cli.main import main

WORKLOADS = """\
kind: List
items:
  - {kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}}
  - {kind: Pod, metadata: {name: api, namespace: shop, labels: {app: api}}}
  - {kind: Pod, metadata: {name: web, namespace: dev, labels: {app: web}}}
"""
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
DENY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: no-web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: api}}
  ingressDeny:
    - fromEndpoints: [{matchLabels: {app: web}}]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "workloads.yaml").write_text(WORKLOADS)
    (tmp_path / "api.yaml").write_text(POLICY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ask(flow: str, *more: str) -> Result:
    return CliRunner().invoke(main, ["explain", flow, "-f", ".", *more])


def told(flow: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(ask(flow, "-o", "json").stdout)
    return answer


def test_an_allowed_flow_names_the_rule_with_file_and_line() -> None:
    result = ask("shop/web -> shop/api:8080 GET /public")
    assert result.exit_code == 0
    assert result.output.startswith("ALLOW  shop/web -> shop/api TCP 8080 GET /public")
    assert "CiliumNetworkPolicy/shop/api ingress[0]  api.yaml:7" in result.output
    assert "| - fromEndpoints: [{matchLabels: {app: web}}]" in result.output
    assert "path: /public" in result.output, "the excerpt is the whole rule"
    assert "\x1b" not in result.output
    assert "To allow it" not in result.output


@pytest.mark.parametrize(
    ("flow", "requirement", "text"),
    [
        ("dev/web -> shop/api:8080 GET /public", "namespace", "needs namespace shop, and dev/web is in dev"),
        ("shop/api -> shop/api:8080 GET /public", "label", "needs app=web, and shop/api has app=api"),
        ("shop/web -> shop/api:9090 GET /public", "port", "needs port 8080, and this is 9090"),
        ("shop/web -> shop/api:8080/udp", "protocol", "needs TCP, and this is UDP"),
    ],
)
def test_the_one_requirement_that_failed_is_told(flow: str, requirement: str, text: str) -> None:
    assert told(flow)["ingress"]["almost"] == [
        {
            "policy": "CiliumNetworkPolicy/shop/api",
            "path": "ingress[0]",
            "at": "api.yaml:7",
            "deny": False,
            "misses": [{"requirement": requirement, "text": text}],
        }
    ]


@pytest.mark.parametrize(
    ("flow", "requirement", "text"),
    [
        ("shop/web -> shop/api:8080 GET /admin", "path", "needs path /public, and this is /admin"),
        ("shop/web -> shop/api:8080 POST /public", "method", "needs method GET, and this is POST"),
    ],
)
def test_a_refused_request_tells_the_field_that_failed(flow: str, requirement: str, text: str) -> None:
    ingress = told(flow)["ingress"]
    assert (ingress["decision"], ingress["l7"]) == ("allow", "deny")
    assert [each["misses"] for each in ingress["notMatching"]] == [[{"requirement": requirement, "text": text}]]


def test_a_policy_that_misses_the_endpoint_by_one_label_is_named() -> None:
    near = told("shop/api -> shop/web:8080")["ingress"]["almostSelecting"]
    assert [(each["policy"], each["text"]) for each in near] == [
        ("CiliumNetworkPolicy/shop/api", "needs app=api, and shop/web has app=web")
    ]


def test_the_proposed_yaml_applied_beside_the_rest_allows_the_flow(folder: Path) -> None:
    flow = "dev/web -> shop/api:8080 GET /admin.json"
    result = ask(flow)
    assert result.exit_code == 1
    _, _, proposed = result.output.partition("To allow it, apply:\n")
    assert yaml.safe_load(proposed)["kind"] == "CiliumNetworkPolicy"
    (folder / "more.yaml").write_text(proposed)
    assert ask(flow).exit_code == 0
    assert ask("dev/web -> shop/api:8080 GET /adminXjson").exit_code == 1, "the path is no pattern"


def test_a_deny_rule_in_the_way_is_named_instead_of_a_policy_that_would_not_help(folder: Path) -> None:
    (folder / "deny.yaml").write_text(DENY)
    result = ask("shop/web -> shop/api:8080 GET /public")
    assert result.exit_code == 1
    assert "no allow can: a deny rule wins over every allow" in result.output
    assert result.output.rstrip().endswith("CiliumNetworkPolicy/shop/no-web ingressDeny[0]  deny.yaml:7")


@pytest.mark.parametrize(
    ("file", "flow", "message"),
    [
        (None, "shop/wob -> shop/api:80", "there is no pod shop/wob\n  did you mean `shop/web`?"),
        ("{", "shop/web -> shop/api:80", "bad.yaml:"),
        ("kind: Deploymint", "shop/web -> shop/api:80", "bad.yaml:1:7: unknown kind `Deploymint`"),
        ("{kind: Deployment, metadata: {name: x}}", "shop/web -> shop/api:80", "have no labels"),
        (None, "shop/web to shop/api", "not a question"),
    ],
)
def test_mistakes_are_one_error_and_exit_code_2(folder: Path, file: str | None, flow: str, message: str) -> None:
    if file is not None:
        (folder / "bad.yaml").write_text(file)
    result = ask(flow)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stdout == ""


def test_a_version_the_model_does_not_know_is_an_error() -> None:
    result = ask("shop/web -> shop/api:80", "--cilium-version", "1.3")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "1.3" in result.stderr


def test_a_rule_that_only_sets_default_deny_did_not_almost_match(folder: Path) -> None:
    (folder / "api.yaml").write_text("\n".join([*POLICY.splitlines()[:5], "  ingress: [{}]"]))
    ingress = told("shop/web -> shop/api:8080")["ingress"]
    assert (ingress["decision"], ingress["defaultDenyBy"]) == ("default-deny", ["CiliumNetworkPolicy/shop/api"])
    assert ingress["almost"] == []
