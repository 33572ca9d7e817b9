"""Suites to run in a pytest of its own, most of them on the `memory` cluster."""

from __future__ import annotations

import importlib
import json
import textwrap
from pathlib import Path

import pytest

from harness.clusters.open import open_cluster
from harness.errors import ClusterError

# pytester forgets what an inner run imported; what is imported here stays, and is not paid for again in every test.
for _name in ("clusters.memory.cluster", "engine.session", "plugin.collect", "plugin.fixture", "reports.allure", "reports.html"):
    importlib.import_module(f"harness.{_name}")

QUIET = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-W", "ignore::pytest.PytestAssertRewriteWarning")
"""Plugins that an inner run does without: importing hypothesis takes longer than most of these tests."""

WALK = """
case: only the client reaches the backend
description: The usual walk.
tags: [zero-trust, l4]
endpoints:
  client: {labels: {app: client}}
  intruder: {labels: {app: intruder}}
  backend: {labels: {app: backend}, ports: [8080]}
phases:
  baseline:
    - allow: client, intruder -> backend:8080
  deny:
    policies:
      - apiVersion: cilium.io/v2
        kind: CiliumNetworkPolicy
        metadata: {name: default-deny}
        spec: {endpointSelector: {}, ingress: [{}]}
    expect:
      - deny: client, intruder -> backend:8080
        reason: default-deny
        at: ingress
  allow:
    policies:
      - apiVersion: cilium.io/v2
        kind: CiliumNetworkPolicy
        metadata: {name: backend}
        spec:
          endpointSelector: {matchLabels: {app: backend}}
          ingress:
            - fromEndpoints: [{matchLabels: {app: client}}]
              toPorts: [{ports: [{port: "8080", protocol: TCP}]}]
    expect:
      - allow: client -> backend:8080
        by: backend
    otherwise: deny
"""
"""Three phases, all pass."""

TYPO = WALK.replace("matchLabels: {app: client}", "matchLabels: {app: cleint}")
"""The allow has a typo in its peer: the last phase fails."""

BROKEN_BASELINE = """
case: the baseline is wrong
endpoints:
  client: {labels: {app: client}}
  backend: {labels: {app: backend}, ports: [8080]}
phases:
  baseline:
    - deny: client -> backend:8080
  later:
    - allow: client -> backend:8080
"""
"""The baseline fails, so whatever follows of the same connection is unknown."""


class Suite:
    """Case files in a folder, and pytest on it."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path

    def write(self, text: str = WALK, name: str = "test_walk.yaml") -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
        return path

    def run(self, *args: str, cluster: str | None = "memory") -> pytest.RunResult:
        """In this process."""
        return self.pytester.runpytest_inprocess(*args, *([f"--cluster={cluster}"] if cluster else []), *QUIET)

    def spawn(self, *args: str, cluster: str | None = "memory") -> pytest.RunResult:
        """In a process of its own: for xdist, and for what must not see this one's imports."""
        return self.pytester.runpytest_subprocess(*args, *([f"--cluster={cluster}"] if cluster else []), *QUIET)

    def events(self, path: str = "events.jsonl") -> list[dict]:
        return [json.loads(line) for line in (self.path / path).read_text().splitlines()]


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """An empty folder; nothing of the environment's settings reaches it."""
    for name in ("CLUSTER", "CILIUM_VERSION", "HUBBLE", "TIMEOUT", "HUBBLE_LISTEN"):
        monkeypatch.delenv(f"HARNESS_{name}", raising=False)
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KUBECONFIG", str(pytester.path / "no-such-kubeconfig"))
    return Suite(pytester)


@pytest.fixture
def unopenable(suite: Suite) -> str:
    """What is said of `--cluster=existing` where there is no kubeconfig."""
    del suite  # has seen to the kubeconfig
    with pytest.raises(ClusterError) as error:
        open_cluster("existing")
    return str(error.value)
