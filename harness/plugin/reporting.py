"""The end of the line, in the one process that reports: from what reports carry to the listeners, the terminal and JUnit."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from harness.plugin.carry import ACCOUNT, COMMAND, OPENING, UNKNOWN, events_of
from harness.plugin.failure import FailureText
from harness.plugin.interrupt import guard
from harness.plugin.options import CASE_SUFFIXES, as_typed, is_phase, resolve

if TYPE_CHECKING:
    from harness.engine.events import Event
    from harness.reports.account import Account
    from harness.reports.listener import Listener
    from harness.reports.tally import Tally

CATEGORY = "unknown"


class Reporting:
    """A plugin of its own, on the controller only (without xdist: in the only process)."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.tally: Tally | None = None
        self._listeners: list[Listener] = []
        self._openings: dict[str, str] = {}
        self._headed = False
        self.mistakes: list[str] = []
        """The case files that could not be collected."""

    def told(self, nodeid: str, events: Sequence[Event], account: Account | None = None, command: str = "") -> None:
        """Pass on what one test told. The listeners are made when there is something to tell for the first time."""
        if not events:
            return
        from harness.reports.listener import Told

        if self.tally is None:
            self._listen()
        told = Told(nodeid, tuple(events), account, command)
        for listener in self._listeners:
            listener.hear(told)

    def _listen(self) -> None:
        from harness.reports.tally import Tally

        self.tally = Tally()
        self._listeners = [self.tally]
        if path := self.config.getoption("harness_jsonl"):
            from harness.reports.jsonl import JsonLines

            self._listeners.append(JsonLines(self._file(path)))
        if path := self.config.getoption("harness_html"):
            from harness.reports.html import HtmlReport

            self._listeners.append(HtmlReport(self._file(path)))

    def _file(self, path: str) -> Path:
        return self.config.invocation_params.dir / path

    # The line before the first test

    def pytest_report_collectionfinish(self, items: Sequence[pytest.Item]) -> str | None:
        return self._headline([item.nodeid for item in items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Sequence[str]) -> None:
        if any(map(is_phase, ids)):
            guard(self.config)  # a worker cleans up; killed with us, it could not
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None and not self._headed and (text := self._headline(ids)):
            self._headed = True
            terminal.ensure_newline()
            terminal.write_line(text)

    def _headline(self, nodeids: Sequence[str]) -> str | None:
        """Where cases are going to run; None where there are none."""
        if self.config.get_verbosity() < 0 or self.config.getoption("collectonly") or not any(map(is_phase, nodeids)):
            return None
        from harness.clusters.open import default_hubble

        options = resolve(self.config)
        simulated = " (simulated: no packet will be sent)" if options.cluster == "memory" else ""
        return f"harness: cluster {options.cluster}{simulated}, Cilium {options.cilium}, hubble {options.hubble or default_hubble(options.cluster)}"

    # What reports carry

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and report.nodeid.endswith(CASE_SUFFIXES):
            self.mistakes.append(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        account = None
        if text := getattr(report, ACCOUNT, ""):
            from harness.reports.account import Account

            account = Account.load(text)
            if isinstance(report.longrepr, str):  # it came from a worker: colours and the one-line message are back
                report.longrepr = FailureText(account)
        self.told(report.nodeid, events_of(report), account, getattr(report, COMMAND, ""))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        del error
        output = SimpleNamespace(**getattr(node, "workeroutput", {}))
        self.told("", events_of(output))

    # The category `unknown`

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, Any] | None:
        if getattr(report, UNKNOWN, False):
            return CATEGORY, "U", (CATEGORY.upper(), {"yellow": True, "bold": True})
        if (opening := getattr(report, OPENING, "")) and self._openings.setdefault(opening, report.nodeid) != report.nodeid:
            return "", "", ""  # another worker has said so
        return None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Generator[None]:
        """After pytest's short summary, the same for unknown outcomes: a line each."""
        yield
        unknown = terminalreporter.stats.get(CATEGORY, [])
        if unknown and "f" in terminalreporter.reportchars:
            if not any(terminalreporter.stats.get(each) for each in ("failed", "error")):
                terminalreporter.write_sep("=", "short test summary info", cyan=True, bold=True)
            for report in unknown:
                terminalreporter.write(CATEGORY.upper(), yellow=True, bold=True)
                message = report.longrepr.reprcrash.message if isinstance(report.longrepr, FailureText) else ""
                terminalreporter.write_line(f" {as_typed(self.config, report.nodeid)}" + (f" - {message}" if message else ""))

    def details(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Before the short summary, where pytest has told the failures: the unknown outcomes in full, and what the run amounts to."""
        unknown = terminalreporter.stats.get(CATEGORY, [])
        if unknown and self.config.getoption("tbstyle") not in ("no", "line"):
            terminalreporter.write_sep("=", "UNKNOWN: the evidence does not suffice")
            for report in unknown:
                terminalreporter.write_sep("_", report.head_line or report.nodeid, yellow=True, bold=True)
                report.toterminal(self.config.get_terminal_writer())
        if self.tally is not None:
            terminalreporter.ensure_newline()
            for line in self.tally.lines(verbosity=self.config.get_verbosity()):
                for text, style in line:
                    terminalreporter.write(text, **dict.fromkeys(style.split(), True))
                terminalreporter.write_line("")

    # The end

    def pytest_unconfigure(self) -> None:
        for listener in self._listeners:
            listener.close()
