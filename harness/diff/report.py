"""A difference as text, as Markdown for the comment of a pull request, and as JSON. Colour is the caller's wish."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct

from harness.diff.compare import Change, Difference
from harness.diff.judgement import Effect, Judgement
from harness.diff.naming import Naming, members, ports_text
from harness.diff.wording import judgement_text, transition

_SIGNS = {Effect.ALLOWED: ("+", "32"), Effect.DENIED: ("-", "31"), Effect.CHANGED: ("~", "33")}
_TITLES = {Effect.ALLOWED: "Newly allowed", Effect.DENIED: "No longer allowed", Effect.CHANGED: "Changed otherwise"}
_COMMENT = 60_000
"""How long a comment may be: GitHub refuses more than 65,536 characters, and who posts it may add some."""
_SIZES = ((30, 100), (30, 30), (30, 0), (10, 0), (3, 0))
"""How many lines of a kind a comment lists, and how many its table has: the first that is short enough; else the headline alone."""
_TICKS = re.compile(r"`+")


class Line(Struct, frozen=True):
    """A change in words."""

    effect: Effect
    source: str
    target: str
    ports: str
    note: str
    change: Change


class Report:
    """A difference between `old` and `new`, as people call them. `refused`: a line for each policy of the new side that nothing is enforced of."""

    def __init__(self, difference: Difference, naming: Naming, old: str, new: str, refused: Sequence[str] = ()) -> None:
        self._difference = difference
        self._sides = (old, new)
        self._refused = tuple(refused)
        found = (
            Line(
                each.effect,
                naming.text(each.sources),
                naming.text(each.targets),
                ports_text(each.ports, difference.ports),
                transition(each),
                each,
            )
            for each in difference.changes
        )
        order = list(_SIGNS)
        self.lines = tuple(sorted(found, key=lambda line: (order.index(line.effect), line.target, line.source, line.ports, line.note)))

    def _of(self, wanted: Effect) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.effect is wanted)

    @property
    def summary(self) -> str:
        if not self.lines:
            return f"nothing changes: {len(self._difference.peers.pods)} workloads are reached, and reach others, as before"
        counts = ((len(self._of(each)), each) for each in _SIGNS)
        words = {Effect.ALLOWED: "newly allowed", Effect.DENIED: "no longer allowed", Effect.CHANGED: "changed otherwise"}
        return ", ".join(f"{number} {words[each]}" for number, each in counts if number)

    def _not_compared(self) -> Iterator[str]:
        for refs, side in ((self._difference.removed, self._sides[0]), (self._difference.added, self._sides[1])):
            if refs:
                yield f"only in {side}, not compared: {', '.join(map(str, refs))}"

    def text(self, *, colour: bool) -> str:
        """A line for each change, and a summary."""
        found = []
        for line in self.lines:
            sign, code = _SIGNS[line.effect]
            words = f"{sign} {line.source} -> {line.target}  {line.ports}{f'  {line.note}' if line.note else ''}"
            found.append(f"\x1b[{code}m{words}\x1b[0m" if colour else words)
        return "\n".join((*found, *(("",) if found else ()), *self._not_compared(), self.summary))

    def markdown(self) -> str:
        """For a comment: the summary, a list of each kind, and the table of all folded."""
        told = ("\n".join(self._markdown(listed, tabled)) for listed, tabled in _SIZES)
        return next((each for each in told if len(each) <= _COMMENT), f"### Network policy\n\n{self._headline}")

    @property
    def _headline(self) -> str:
        old, new = map(_code, self._sides)
        return f"**{self.summary[0].upper()}{self.summary[1:]}** (from {old} to {new})"

    def _markdown(self, listed: int, tabled: int) -> Iterator[str]:
        yield "### Network policy"
        yield ""
        yield self._headline
        for each in _SIGNS:
            lines = self._of(each)
            if lines:
                yield from ("", f"**{_TITLES[each]}**", "")
                yield from map(_item, lines[:listed])
                if len(lines) > listed:
                    yield f"- and {len(lines) - listed} more"
        remarks = [*self._not_compared(), *self._refused]
        if remarks:
            yield ""
            yield from (f"> {_plain(each)}  " for each in remarks)
        if self.lines and tabled:
            yield from (
                "",
                "<details><summary>Before and after</summary>",
                "",
                "| from | to | ports | before | after |",
                "|---|---|---|---|---|",
            )
            yield from (_row(line) for line in self.lines[:tabled])
            yield ""
            if len(self.lines) > tabled:
                yield from (f"And {len(self.lines) - tabled} more.", "")
            yield "</details>"

    def as_json(self) -> str:
        """One object; each change with its words and, for programs, every peer and port by itself."""
        peers = self._difference.peers
        return json.dumps(
            {
                "old": self._sides[0],
                "new": self._sides[1],
                "changes": [
                    {
                        "effect": line.effect,
                        "text": {"source": line.source, "target": line.target, "ports": line.ports, "note": line.note},
                        "before": _judgement_json(line.change.old),
                        "after": _judgement_json(line.change.new),
                        "sources": members(line.change.sources, peers),
                        "targets": members(line.change.targets, peers),
                        "ports": [{"protocol": each.protocol, "first": each.first, "last": each.last} for each in line.change.ports],
                    }
                    for line in self.lines
                ],
                "notCompared": {"old": list(map(str, self._difference.removed)), "new": list(map(str, self._difference.added))},
                "refused": list(self._refused),
            },
            indent=2,
        )


def _judgement_json(judgement: Judgement) -> dict[str, Any]:
    return {"reach": judgement.reach.name.lower(), "text": judgement_text(judgement)}


def _item(line: Line) -> str:
    note = f": {_code(line.note)}" if line.note else ""
    return f"- {_code(line.source)} → {_code(line.target)} {line.ports}{note}"


def _row(line: Line) -> str:
    cells: Iterable[str] = (line.source, line.target, line.ports, judgement_text(line.change.old), judgement_text(line.change.new))
    return f"| {' | '.join(_code(each).replace('|', chr(92) + '|') for each in cells)} |"


def _code(text: str) -> str:
    """As code, whatever it holds: paths of rules are patterns."""
    text = " ".join(text.split())
    fence = "`" * (max(map(len, _TICKS.findall(text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _plain(text: str) -> str:
    """On one line, as no markup."""
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", " ".join(text.split()))
