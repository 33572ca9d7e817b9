"""How many mistakes the shipped cases notice: carried on the test reports (across xdist workers, too), summed up and printed at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

PROPERTY = "detection"


class Detection:
    """What became of mutants. `must_fail`: the model says that an expectation changes; `idle`: their policy is meant to do nothing."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.counts: Counter[str] = Counter()
        self.survivors: list[str] = []
        self.equivalent: list[str] = []

    def add(self, name: str, *, must_fail: bool, noticed: bool, idle: bool = False) -> None:
        if must_fail:
            self.counts["noticed" if noticed else "survived"] += 1
            self.survivors += [] if noticed else [name]
        elif noticed:
            self.counts["by status"] += 1
        else:
            self.counts["idle" if idle else "equivalent"] += 1
            self.equivalent += [] if idle else [name]

    @property
    def must_fail(self) -> int:
        return self.counts["noticed"] + self.counts["survived"]

    def dump(self) -> dict[str, Any]:
        return {"where": self.where, "counts": dict(self.counts), "survivors": self.survivors, "equivalent": self.equivalent}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = sorted(_found(terminalreporter), key=lambda each: str(each["where"]))
    if not found:
        return
    write = terminalreporter.write_line
    terminalreporter.section("mistakes that the shipped cases notice")
    simulated: Counter[str] = Counter()
    for each in found:
        write(f"{each['where']:>18}: {_sentence(Counter(each['counts']))}")
        if each["where"] != "lab":
            simulated.update(each["counts"])
    if simulated:
        write(f"{'all, in memory':>18}: {_sentence(simulated)}")
    for each in found:
        for name in each["survivors"]:
            write(f"survivor ({each['where']}): {name}", red=True)
    for each in found if terminalreporter.verbosity > 0 else ():
        for name in each["equivalent"]:
            write(f"equivalent for the case: {name}")


def _found(terminalreporter: pytest.TerminalReporter) -> Iterator[Mapping[str, Any]]:
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            yield from (value for name, value in report.user_properties if name == PROPERTY)


def _sentence(counts: Counter[str]) -> str:
    must = counts["noticed"] + counts["survived"]
    share = f" ({100 * counts['noticed'] / must:.1f} %)" if must else ""
    rest = [
        f"{counts[name]} {words}"
        for name, words in (
            ("by status", "more by the policy's status"),
            ("equivalent", "equivalent for their case"),
            ("idle", "in policies meant to do nothing"),
        )
        if counts[name]
    ]
    return "; ".join([f"{counts['noticed']} of {must} noticed{share}", *rest])
