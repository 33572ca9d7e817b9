"""The HTML report: self-contained, complete, and safe with whatever names hold."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from harness.engine.events import PhaseFinished, PhaseSkipped, RunStarted
from harness.engine.outcome import Outcome
from harness.reports.html import EVIDENCE_SHOWN, HtmlReport
from harness.reports.listener import Told

VOID = {"meta", "input", "br"}
DENY = (
    "change:\n"
    "  policies:\n"
    "    - {apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: deny-all}, spec: {endpointSelector: {}, ingress: [{}]}}\n"
    "  expect:\n"
    "    - deny: client, stranger -> backend:8080\n"
    "    - allow: client -> backend:9000\n"
)


class Page(HTMLParser):
    """The text of a page, and whether its elements are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()
        self.text += " " if tag in {"td", "th"} else ""

    def handle_data(self, data):
        if not self.open or self.open[-1] not in {"style", "script"}:
            self.text += data


@pytest.fixture
def page(ran, tmp_path: Path):
    """The page on phases that ran, each as the test of its name."""

    def write(phases: str, *, whole: bool = False) -> Page:
        found = ran(phases, whole=whole)
        report = HtmlReport(tmp_path / "out" / "report.html")
        report.hear(Told("", [event for event in found.events if isinstance(event, RunStarted)]))
        for phase in found.case.phases:
            events = [event for event in found.events if getattr(event, "phase", "") == phase.name]
            account = (
                found.account(phase.name)
                if any(isinstance(event, PhaseFinished) and event.outcome != "passed" for event in events)
                else None
            )
            report.hear(Told(f"test_case.yaml::{found.case.name}::{phase.name}", events, account, f"pytest {phase.name}"))
        report.close()
        html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        assert "http://" not in html
        assert "https://" not in html
        return Page(html)

    return write


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere(page):
    found = page("baseline: [{allow: 'client -> backend:8080'}]\n" + DENY)
    assert found.open == []
    assert found.addresses == []


def test_it_tells_cases_phases_outcomes_and_that_the_run_was_simulated(page):
    text = page("baseline: [{allow: 'client -> backend:8080'}]\n" + DENY).text
    for part in ("test_case.yaml", "three in two namespaces", "baseline", "change", "failed", "passed", "Simulated.", "memory"):
        assert part in text


def test_a_failed_phase_holds_its_account_the_flows_and_the_policies(page):
    text = page("baseline: [{allow: 'client -> backend:8080'}]\n" + DENY).text
    assert "failed allow: client -> backend:9000/TCP: dropped at ingress, default-deny" in text
    assert re.search(r"DROPPED \(default deny\) at ingress shop/client:\d+ -> shop/backend:9000", text)
    assert "CiliumNetworkPolicy/shop/deny-all" in text
    assert "endpointSelector: {}" in text
    assert "again: pytest change" in text


def test_who_reaches_what_is_a_matrix_of_sources_and_targets(page):
    words = page(DENY).text.split()
    at = words.index("reaches")
    assert words[at : at + 11] == [
        *("reaches", "what", "backend:8080/TCP", "backend:9000/TCP"),
        *("client", "deny", "allow", "✗"),
        *("stranger", "deny", "·"),
    ]


def test_markup_in_names_and_prose_stays_text(page):
    found = page(
        "case: <script>alert(1)</script>\n"
        "endpoints:\n  a: {labels: {app: a}, ports: [80]}\n  b: {labels: {app: b}}\n"
        "phases:\n  <img src=x>: [{allow: 'b -> a:80'}]\n",
        whole=True,
    )
    assert "<script>alert(1)</script>" in found.text
    assert "<img src=x>" in found.text
    assert found.addresses == []


def test_a_very_large_phase_keeps_the_page_small_and_says_what_is_left_out(page):
    found = page(
        "case: large\nendpoints:\n"
        "  client: {labels: {app: client}, replicas: 30}\n  server: {labels: {app: server}, replicas: 10, ports: [80]}\n"
        "phases:\n  baseline: [{allow: 'client -> server:80'}]\n",
        whole=True,
    )
    assert f"and {300 - EVIDENCE_SHOWN} more that passed, left out of this page" in found.text


@pytest.fixture
def outline(tmp_path: Path):
    """The page on phases of which only the outcome is known."""

    def write(*told: tuple[str, str, str, str]) -> str:
        report = HtmlReport(tmp_path / "report.html")
        for nodeid, case, phase, outcome in told:
            skipped = PhaseSkipped(case=case, phase=phase, reason="needs ipv6")
            event = skipped if outcome == "skipped" else PhaseFinished(case=case, phase=phase, outcome=Outcome(outcome), seconds=0.1)
            report.hear(Told(nodeid, [event]))
        report.close()
        return (tmp_path / "report.html").read_text(encoding="utf-8")

    return write


def test_what_failed_stands_above_what_passed(outline):
    text = outline(
        ("test_a.yaml::good::p", "good", "p", "passed"),
        ("test_b.yaml::fine::p", "fine", "p", "passed"),
        ("test_b.yaml::wrong::p", "wrong", "p", "failed"),
        ("test_c.yaml::unsure::p", "unsure", "p", "unknown"),
    )
    names = ("test_b.yaml", "wrong", "fine", "test_c.yaml", "unsure", "test_a.yaml", "good")
    assert [text.index(name) for name in names] == sorted(text.index(name) for name in names)


def test_python_tests_that_share_a_case_are_told_apart(outline):
    text = outline(("test_x.py::test_it[1]", "shop", "p", "passed"), ("test_x.py::test_it[2]", "shop", "p", "failed"))
    assert text.index("test_it[2]") < text.index("test_it[1]")


def test_the_reason_of_a_skip_is_seen_without_unfolding(outline):
    (row,) = re.findall("<summary>(.*?)</summary>", outline(("test_a.yaml::x::p", "x", "p", "skipped")), re.DOTALL)
    assert "needs ipv6" in row
