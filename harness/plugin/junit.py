"""JUnit XML: pytest writes it; unknown outcomes become `<error type="unknown">`, and the run's place becomes properties."""

from __future__ import annotations

import pytest
from _pytest.junitxml import xml_key  # there is no public name for the report that is being written

from harness.plugin.carry import UNKNOWN, events_of


class Junit:
    """A plugin of its own, on the controller, only with `--junitxml`."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Comes after pytest's own, which has just written `<failure>` for anything that did not pass."""
        xml = self.config.stash.get(xml_key, None)
        if xml is None:
            return
        from harness.engine.events import CheckFinished, RunStarted

        events = events_of(report)
        known = {name for name, _ in xml.global_properties}
        for event in events:
            if isinstance(event, RunStarted) and "harness.cluster" not in known:
                for name in ("cluster", "cilium", "hubble", "simulated"):
                    xml.add_global_property(f"harness.{name}", str(getattr(event, name)).lower())
        if report.when != "call":
            return
        node = xml.node_reporter(report)
        outcomes = [str(event.result.judgement.outcome) for event in events if isinstance(event, CheckFinished) and not event.replayed]
        for outcome in dict.fromkeys(outcomes):
            node.add_property(f"harness.checks.{outcome}", str(outcomes.count(outcome)))
        if getattr(report, UNKNOWN, False) and node.nodes and node.nodes[-1].tag == "failure":
            node.nodes[-1].tag = "error"
            node.nodes[-1].set("type", "unknown")
            xml.stats["failure"] -= 1
            xml.stats["error"] += 1
