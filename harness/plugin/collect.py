"""pytest's tree for case files: a file holds cases, a case holds phases, and a phase is the test. Reads nothing but the files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError
from harness.plugin.failure import CheckFailure, FailureText, UnknownOutcome
from harness.plugin.options import as_typed
from harness.plugin.run import run_of

if TYPE_CHECKING:
    from harness.cases.case import Case, Phase


class CaseFile(pytest.File):
    """A `test_*.yaml`."""

    def collect(self) -> Iterator[CaseNode]:
        from harness.cases.load import load_cases  # pydantic and YAML: only where there are cases

        for case in load_cases(self.path):
            yield CaseNode.from_parent(self, name=case.name, case=case)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """An error in the file is for the person who wrote it: no traceback."""
        if isinstance(excinfo.value, HarnessError):
            return str(excinfo.value)
        del style  # pytest's own collectors ignore it too
        return super().repr_failure(excinfo)


class CaseNode(pytest.Collector):
    """One YAML document. Its tags are marks, known to `--strict-markers`."""

    case: Case

    def __init__(self, *, case: Case, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case = case
        for tag in case.tags:
            self.config.addinivalue_line("markers", f"{tag}: a tag of network policy cases")
            self.add_marker(tag)

    def collect(self) -> Iterator[PhaseItem]:
        for phase in self.case.phases:
            yield PhaseItem.from_parent(self, name=phase.name, case=self.case, phase=phase)


class PhaseItem(pytest.Item):
    """One phase. The earlier ones are replayed by the session where they have not just run."""

    case: Case
    phase: Phase

    def __init__(self, *, case: Case, phase: Phase, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case = case
        self.phase = phase

    def setup(self) -> None:
        run_of(self.config).session()

    def runtest(self) -> None:
        from harness.engine.events import PhaseSkipped
        from harness.engine.outcome import Outcome

        run = run_of(self.config)
        simulated = run.session().cluster.simulated
        finished = run.run_phase(self.case, self.phase.name)
        if self.config.getoption("allure_report_dir", None):
            from harness.reports.allure import record_steps

            record_steps(self.case, self.phase.name, run.last, simulated=simulated)
        if isinstance(finished, PhaseSkipped):
            raise pytest.skip.Exception(finished.reason)
        if finished.outcome is Outcome.PASSED:
            return
        from harness.reports.failure import describe

        command = run.options.command(as_typed(self.config, self.nodeid))
        account = describe(run.last, self.case, self.phase.name, command=command, simulated=simulated)
        raise (UnknownOutcome if finished.outcome is Outcome.UNKNOWN else CheckFailure)(account)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, CheckFailure | UnknownOutcome):
            return FailureText(excinfo.value.account)
        if isinstance(excinfo.value, HarnessError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        return self.path, self.phase.location.line - 1, f"{self.case.name} :: {self.phase.name}"
