"""Counts and notes of a whole run, for the last lines on a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from harness.engine.events import CheckFinished, PhaseFinished, PhaseSkipped, RunStarted
from harness.engine.outcome import Outcome, PolicyFinding
from harness.reports import wording
from harness.reports.account import Line, plain
from harness.reports.listener import Told

_LISTED = 10


class Tally:
    """Listens and adds up."""

    def __init__(self) -> None:
        self.runs: list[RunStarted] = []
        self.checks: Counter[Outcome] = Counter()
        self.phases = 0
        self.skipped: Counter[str] = Counter()
        """How many phases, by the reason."""
        self.disagreements: list[str] = []
        self.unproven: Counter[str] = Counter()
        self.uncovered: list[PolicyFinding] = []
        self.idle: dict[PolicyFinding, None] = {}
        """Deny rules that deny nobody, each once however many phases keep the policy."""

    def hear(self, told: Told) -> None:
        for event in told.events:
            match event:
                case RunStarted():
                    self.runs.append(event)
                case CheckFinished() if not event.replayed:
                    self.checks[event.result.judgement.outcome] += 1
                    if event.result.disagreement:
                        self.disagreements.append(f"{told.nodeid}: {wording.title(event.result)}: {event.result.disagreement}")
                    if event.result.unproven and event.result.judgement.outcome is Outcome.PASSED:
                        self.unproven[told.nodeid] += 1
                case PhaseFinished() if not event.replayed:
                    self.phases += 1
                    self.uncovered += [finding for finding in event.findings if finding.kind == "uncovered"]
                    self.idle.update((finding, None) for finding in event.findings if finding.kind == "idle")
                case PhaseSkipped():
                    self.skipped[event.reason] += 1
                case _:
                    pass

    def close(self) -> None:
        """Nothing to close."""

    def lines(self, *, verbosity: int = 0) -> Iterator[Line]:
        """The summary; from verbosity 1 on it lists what is uncovered and unproven one by one. Below 0 it tells only what nobody may
        miss: that nothing was sent or no flow was read, and disagreements."""
        full = verbosity > 0
        if not self.runs or (verbosity < 0 and not self.disagreements and not self.runs[0].notes):
            return
        yield (("harness: ", "bold"), *self._place(), (f": {self._counts()}", ""))
        for note in dict.fromkeys(note for run in self.runs for note in run.notes):
            yield plain(f"  {note}", "purple")
        if self.disagreements:
            yield plain(f"  THE MODEL AND THE CLUSTER DISAGREE in {_number(len(self.disagreements), 'check')}:", "red bold")
            yield from (plain(f"    {text}", "red") for text in self.disagreements[:_LISTED])
        if verbosity < 0:
            return
        for reason, count in self.skipped.most_common(_LISTED):
            yield plain(f"  skipped: {_number(count, 'phase')}: {reason}")
        for finding in list(self.idle)[: None if full else _LISTED]:
            yield plain(f"  {finding.location}: {finding.ref} {finding.message}", "yellow")
        if self.uncovered:
            policies = "policy" if len(self.uncovered) == 1 else "policies"
            yield plain(
                f"  not covered: {len(self.uncovered)} {policies}, without which no expectation would change{'' if full else ' (-v lists)'}"
            )
            if full:
                yield from (plain(f"    {finding.location}: {finding.ref}") for finding in self.uncovered)
        if self.unproven:
            count = sum(self.unproven.values())
            yield plain(
                f"  unproven: {_number(count, 'denied check')} of connections that were never seen to work in their case{'' if full else ' (-v lists)'}"
            )
            if full:
                yield from (plain(f"    {nodeid}: {number}") for nodeid, number in self.unproven.items())

    def _place(self) -> Iterator[tuple[str, str]]:
        run = self.runs[0]
        yield (f"cluster {run.cluster}", "bold")
        if run.simulated:
            yield (" (simulated)", "purple bold")
        yield (f", Cilium {run.cilium}, hubble {run.hubble}", "")
        if len(self.runs) > 1:
            yield (f", {len(self.runs)} of them", "")
        opened = max(each.seconds for each in self.runs)
        if opened:
            yield (f", opened in {wording.milliseconds(opened)}", "")

    def _counts(self) -> str:
        parts = [f"{self.checks[outcome]} {outcome}" for outcome in Outcome if self.checks[outcome]]
        skipped = f", {_number(self.skipped.total(), 'phase')} skipped" if self.skipped else ""
        return f"{_number(self.phases, 'phase')}, {_number(sum(self.checks.values()), 'check')} ({', '.join(parts) or 'none'}){skipped}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
