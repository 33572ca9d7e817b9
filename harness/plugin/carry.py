"""What a test's report carries besides pytest's own: the events, the account and the outcome.

Where a report leaves the process (to xdist's controller, to a log), pytest serialises it, and the events become JSON texts with it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _pytest._code.code import ExceptionRepr

from harness.errors import ClusterError, HarnessError
from harness.plugin.failure import CheckFailure, UnknownOutcome
from harness.plugin.options import as_typed
from harness.plugin.run import RUN, OpeningError, Run

if TYPE_CHECKING:
    from harness.engine.events import Event

EVENTS = "harness_events"
ACCOUNT = "harness_account"
COMMAND = "harness_command"
UNKNOWN = "harness_unknown"
OPENING = "harness_opening"
"""Names of attributes of a report."""


def load_report(report: pytest.TestReport, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Put onto the report what there is to carry."""
    run = item.config.stash.get(RUN, None)
    if run is None:
        return
    if events := run.take():
        setattr(report, EVENTS, events)
        setattr(report, COMMAND, run.options.command(as_typed(item.config, item.nodeid)))
    error = call.excinfo.value if call.excinfo else None
    match error:
        case CheckFailure() | UnknownOutcome():
            setattr(report, ACCOUNT, error.account.dump())
            setattr(report, UNKNOWN, isinstance(error, UnknownOutcome))
            if isinstance(report.longrepr, ExceptionRepr):  # a Python test: its lines first, then the account
                report.longrepr.addsection("network policy", str(error.account))
        case OpeningError():
            report.longrepr = str(error)
            setattr(report, OPENING, str(error))
            item.session.shouldfail = f"the cluster {run.options.cluster!r} could not be opened"
        case HarnessError():
            report.longrepr = str(error)
            setattr(report, UNKNOWN, isinstance(error, ClusterError))
        case pytest.skip.Exception() if hasattr(item, "phase"):
            path, line, _ = item.reportinfo()
            report.longrepr = (_relative(path), (line or 0) + 1, f"Skipped: {error}")


def serialize(data: dict[str, Any]) -> None:
    """The events of a report that is about to leave the process, as texts."""
    if EVENTS in data:
        from harness.engine.events import dump_json

        data[EVENTS] = [each if isinstance(each, str) else dump_json(each) for each in data[EVENTS]]


def events_of(report: object) -> Sequence[Event]:
    """The events of a report, wherever it came from; they stay on it as values."""
    carried = getattr(report, EVENTS, ())
    if any(isinstance(each, str) for each in carried):
        from harness.engine.events import load_json

        carried = [load_json(each) if isinstance(each, str) else each for each in carried]
        setattr(report, EVENTS, carried)
    return carried


def _relative(path: object) -> str:
    try:
        return str(Path(str(path)).relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def finish(session: pytest.Session) -> None:
    """End the run of this process; what it then still has to tell goes with the worker's last word, or straight to the reports."""
    run = session.config.stash.get(RUN, None)
    if run is None:
        return
    if run.options.keep and run.cluster is not None:
        _show(session, run)
    run.close()
    events = run.take()
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[EVENTS] = events
        serialize(output)
    elif reporting := session.config.pluginmanager.get_plugin("harness-reporting"):
        reporting.told("", events)


def _show(session: pytest.Session, run: Run) -> None:
    """Keep the last case as it is until the user has seen enough."""
    capture = session.config.pluginmanager.get_plugin("capturemanager")
    if capture is not None:
        capture.suspend_global_capture(in_=True)
    try:
        sys.stderr.write("\n" + run.how_to_enter() + "\n")
        if sys.stdin is not None and sys.stdin.isatty():
            input("--keep: the lab stays until you press Enter ")
    except (EOFError, KeyboardInterrupt):
        pass
    finally:
        if capture is not None:
            capture.resume_global_capture()
