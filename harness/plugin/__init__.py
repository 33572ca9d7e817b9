"""The pytest plugin: a thin adapter between pytest's hooks and the engine.

Loaded by pytest in every project where the package is installed, so nothing heavy is imported until a case is collected or runs.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError

if TYPE_CHECKING:
    from harness.clusters.base import Cluster
    from harness.plugin.fixture import Connectivity


def pytest_addoption(parser: pytest.Parser) -> None:
    from harness.plugin.options import declare

    declare(parser)


def pytest_configure(config: pytest.Config) -> None:
    from harness.plugin.options import resolve

    try:
        resolve(config)
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from None
    if not hasattr(config, "workerinput"):
        from harness.plugin.reporting import Reporting

        config.pluginmanager.register(Reporting(config), "harness-reporting")
        if config.getoption("xmlpath", None):
            from harness.plugin.junit import Junit

            config.pluginmanager.register(Junit(config), "harness-junit")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    from harness.plugin.options import CASE_SUFFIXES

    if file_path.suffix not in CASE_SUFFIXES or not (file_path.name.startswith("test_") or parent.session.isinitpath(file_path)):
        return None
    from harness.plugin.collect import CaseFile

    # pytest names a file outside its root directory '': then nobody could tell two of them apart, nor name a test to run again.
    outside = not file_path.is_relative_to(parent.config.rootpath)
    return CaseFile.from_parent(parent, path=file_path, nodeid=file_path.as_posix() if outside else None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    from harness.plugin.carry import load_report

    load_report(report, item, call)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
    data = yield
    if data is not None:
        from harness.plugin.carry import serialize

        serialize(data)
    return data


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if reporting := config.pluginmanager.get_plugin("harness-reporting"):
        reporting.details(terminalreporter)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    from harness.plugin.carry import finish

    finish(session)


def pytest_unconfigure(config: pytest.Config) -> None:
    """For runs that never got as far as `pytest_sessionfinish`."""
    from harness.plugin.interrupt import unguard
    from harness.plugin.run import RUN

    if run := config.stash.get(RUN, None):
        run.close()
    unguard(config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Phases of a case stay together, in order, on one worker; cases spread."""
    from harness.plugin.scheduler import make_scheduler

    return make_scheduler(config, log)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """The place where this run's cases run, opened if it is not yet."""
    from harness.plugin.run import run_of

    return run_of(request.config).session().cluster


@pytest.fixture
def connectivity(request: pytest.FixtureRequest) -> Generator[Connectivity]:
    """Declares or loads endpoints, applies policies and checks who may reach whom. See docs/python-tests.md."""
    from harness.plugin.fixture import Connectivity
    from harness.plugin.options import as_typed
    from harness.plugin.run import run_of

    node = request.node
    found = Connectivity(run_of(request.config), request.path.parent, node.name, as_typed(request.config, node.nodeid))
    yield found
    found.release()
