"""Policies that are shipped, through the commands that answer without a cluster. What each answer means is tested elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main

MANIFESTS = Path(__file__).parents[2] / "fixtures" / "manifests"
SHIPPED = (
    *sorted(MANIFESTS.glob("getting-started/*.yaml")),
    MANIFESTS / "l7" / "api-gateway.yaml",
    MANIFESTS / "dns" / "stripe-by-name.yaml",
    MANIFESTS / "precedence" / "deny-client.yaml",
)
WORKLOADS = """\
kind: List
items:
  - {kind: Pod, metadata: {name: client, namespace: default, labels: {app: test-client}}}
  - {kind: Pod, metadata: {name: backend, namespace: default, labels: {app: test-backend}}}
"""
QUESTION = "default/client -> default/backend"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for each in ("old", "new"):
        (tmp_path / each).mkdir()
    for policy in SHIPPED:
        shutil.copy(policy, tmp_path / "new")
    shutil.copy(SHIPPED[0], tmp_path / "old")
    (tmp_path / "workloads.yaml").write_text(WORKLOADS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("predict", "new", "-f", "workloads.yaml", f"{QUESTION}:8080"), 0, "allow: default/client -> default/backend:8080"),
        (("predict", "new", "-f", "workloads.yaml", f"{QUESTION}:9090"), 1, "deny: default/client -> default/backend:9090"),
        (("explain", "-f", "new", "-f", "workloads.yaml", f"{QUESTION}:8080"), 0, "allow-test-client.yaml"),
        (("explain", "-f", "new", "-f", "workloads.yaml", f"{QUESTION}:9090"), 1, "allow-test-client.yaml"),
        (("diff", "old", "new", "-f", "workloads.yaml"), 1, "-> every pod of default  everything"),
    ],
)
def test_seven_shipped_policies_are_answered_about(folder: Path, words: tuple[str, ...], code: int, said: str) -> None:
    assert len(list((folder / "new").iterdir())) == 7
    result = CliRunner().invoke(main, list(words))
    assert (result.exit_code, said in result.output) == (code, True), result.output


@pytest.mark.parametrize("policy", SHIPPED, ids=lambda each: each.stem)
def test_no_shipped_policy_of_these_is_an_error_to_lint(policy: Path) -> None:
    result = CliRunner().invoke(main, ["lint", "-o", "json", str(policy)])
    assert result.exit_code in (0, 1), result.output
    assert not [each for each in json.loads(result.output) if each["severity"] == "error"], result.output
