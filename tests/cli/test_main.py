"""The command line as a user meets it: help, mistakes, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import COMMANDS, main

CASE = """\
case: two meet
tags: [smoke]
endpoints:
  client: {labels: {app: client}}
  server: {labels: {app: server}, ports: [8080, {port: 53, protocol: UDP}], replicas: 2}
services:
  server: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
phases:
  baseline:
    - allow: client -> server:8080
  deny:
    requires: {cilium: ">=1.18"}
    policies:
      - {apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: deny}, spec: {endpointSelector: {}, ingress: [{}]}}
    expect:
      - deny: client -> server:8080
    otherwise: deny
"""


def harness(*args: str):
    return CliRunner().invoke(main, list(args))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("test_two.yaml").write_text(CASE)
    return tmp_path


def test_help_lists_every_command_without_importing_any():
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from harness.cli.main import COMMANDS, main\n"
        "result = CliRunner().invoke(main, ['--help'])\n"
        "assert result.exit_code == 0, result.output\n"
        "assert all(f'  {name} ' in result.output for name in COMMANDS), result.output\n"
        "heavy = [name for name in sys.modules if name.startswith(('harness.cli.', 'harness.cases', 'pydantic', 'yaml', 're2')) and name != 'harness.cli.main']\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_can_be_loaded_and_explains_itself(name):
    result = harness(name, "--help")
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")


def test_the_module_is_the_command():
    result = subprocess.run([sys.executable, "-m", "harness", "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.startswith("harness, version ")


def test_a_mistyped_command_is_answered_with_the_one_that_was_meant():
    result = harness("chek")
    assert result.exit_code == 2
    assert "no such command 'chek': did you mean `check`?" in result.output


@pytest.mark.usefixtures("folder")
def test_check_lists_cases_phases_and_what_they_need():
    result = harness("check", ".")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "test_two.yaml::two meet  [smoke]",
        "    2 endpoints, 1 service; needs services",
        "    baseline: 1 expectation",
        "    deny: 1 expectation and 1 from `otherwise`, applies 1 policy; needs Cilium >=1.18",
        "1 case",
    ]


def test_check_reads_every_file_and_shows_each_mistake_with_its_caret(folder):
    folder.joinpath("test_a.yaml").write_text(CASE.replace("client -> server", "clint -> server", 1))
    folder.joinpath("test_b.yaml").write_text("case: b\n")
    result = harness("check", "-q", str(folder))
    assert result.exit_code == 2
    assert result.stdout == "1 case, 2 files with mistakes\n"
    errors = result.stderr.splitlines()
    assert errors[0].startswith("error: test_a.yaml:10:14: ")
    assert errors[1:4] == ["        - allow: clint -> server:8080", "                 ^^^^^", "  did you mean `client`?"]
    assert any(line.startswith("error: test_b.yaml:1") for line in errors)


@pytest.mark.parametrize(("path", "message"), [("nowhere", "there is no nowhere"), ("empty", "there are no case files in empty")])
def test_check_says_what_is_wrong_with_a_path_and_exits_2_without_a_traceback(path, message, folder):
    folder.joinpath("empty").mkdir()
    result = harness("check", path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {message}\n  ")
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_schema_prints_the_schema_that_is_shipped():
    result = harness("schema")
    assert result.exit_code == 0
    shipped = Path(__file__).parents[2] / "harness" / "cases" / "schema.json"
    assert json.loads(result.output) == json.loads(shipped.read_text())
