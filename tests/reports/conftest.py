"""Events to report on: real ones, of cases run on the `memory` cluster."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.cases.case import Case
from harness.cases.load import load_cases
from harness.clusters.memory.cluster import MemoryCluster
from harness.engine.events import Event
from harness.engine.session import Session
from harness.engine.settings import Settings
from harness.reports.account import Account
from harness.reports.failure import describe

HEAD = """
case: three in two namespaces
namespace: shop
endpoints:
  client: {labels: {app: client, tier: web}}
  stranger: {namespace: dev, labels: {app: client, tier: web}}
  backend: {labels: {app: backend}, ports: [8080, {port: 9000, name: grpc}, {port: 53, protocol: UDP}]}
phases:
"""


@dataclass(frozen=True)
class Ran:
    """A case that ran to its end."""

    case: Case
    events: list[Event]

    def account(self, phase: str) -> Account:
        return describe(self.events, self.case, phase, command=f"pytest {phase}", simulated=True)

    def likely(self, phase: str) -> list[str]:
        """The advice in the account."""
        lines = str(self.account(phase)).splitlines()
        return [line.removeprefix("    likely    ") for line in lines if line.startswith("    likely")]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run the phases (YAML, indented under `phases:`) of the three endpoints, or a whole case."""
    monkeypatch.chdir(tmp_path)

    def run(phases: str, *, whole: bool = False) -> Ran:
        text = phases if whole else HEAD + textwrap.indent(textwrap.dedent(phases), "  ")
        tmp_path.joinpath("test_case.yaml").write_text(text.lstrip("\n"))
        (case,) = load_cases(tmp_path / "test_case.yaml")
        cluster, events = MemoryCluster(), []
        session = Session(cluster, Settings(), events.append)
        for phase in case.phases:
            session.run_phase(case, phase.name)
        session.close()
        cluster.close()
        return Ran(case, events)

    return run
