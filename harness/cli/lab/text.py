"""What `harness lab` prints for people: what is in a lab, how policies stand, what a probe showed. Layout only; the words are JSON already."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

_COLOUR = {"allow": "green", "passed": "green", "deny": "red", "failed": "red", "unknown": "yellow"}
_STYLES = {"red", "green", "yellow", "blue", "purple", "cyan"}
_SHOWN = 6


def lab(about: Mapping[str, Any]) -> Iterator[str]:
    """The first lines on a lab: which one it is, where its flows are, and how long it stays."""
    phase = f", phase `{about['phase']}`" if about["phase"] not in ("", about["case"]) else ""
    yield click.style(f"lab `{about['name']}`: {about['case']}{phase}", bold=True)
    stays = f"ends when nobody has used it for {duration(about['idle'])}" if about["idle"] else "stays until `harness lab down`"
    yield f"flows at {about['flows']}"
    yield f"up for {duration(time.time() - about['since'])}, process {about['keeper']}, as Cilium {about['cilium']}; {stays}"


def contents(status: Mapping[str, Any]) -> Iterator[str]:
    """Everything in a lab, as tables."""
    namespace = f"{status['namespace']}/"
    yield ""
    yield from table(
        ("POD", "NODE", "ADDRESSES", "LABELS", "PORTS"),
        [
            (
                each["name"].removeprefix(namespace),
                each["node"] + (" (host network)" if each["hostNetwork"] else ""),
                " ".join(each["addresses"]),
                ",".join(f"{key}={value}" for key, value in each["labels"].items()),
                " ".join(each["ports"]),
            )
            for each in status["pods"]
        ],
    )
    if status["services"]:
        yield ""
        rows = [
            (
                each["name"].removeprefix(namespace),
                " ".join(each["addresses"]) or "headless",
                ", ".join(each["ports"]),
                listed([name.removeprefix(namespace) for name in each["backends"]]) or "none",
            )
            for each in status["services"]
        ]
        yield from table(("SERVICE", "ADDRESSES", "PORTS", "BACKENDS"), rows)
    if status["externals"]:
        yield ""
        outside = [
            (each["name"], " ".join(each["addresses"]), " ".join(each["names"]), " ".join(each["ports"])) for each in status["externals"]
        ]
        yield from table(("OUTSIDE", "ADDRESSES", "NAMES", "PORTS"), outside)
    yield ""
    if status["policies"]:
        yield click.style("POLICY", bold=True)
        yield from standing(status["policies"])
    else:
        yield "no policy is in force: everybody reaches everybody"


def standing(policies: Iterable[Mapping[str, Any]], verb: str = "") -> Iterator[str]:
    """A line for each policy: what it selects, or why it does nothing. `verb` says what happened to it."""
    for each in policies:
        head = f"{each['policy']}{verb} "
        if each["refused"]:
            yield head + click.style(f"is refused, so nothing of it is enforced: {each['refused']}", fg="red")
        elif each["inert"]:
            yield head + click.style(f"does nothing: {each['inert']}", fg="red")
        else:
            yield f"{head}selects {listed(each['selects'])}"
        for rule in each["idle"]:
            yield click.style(f"    a deny rule denies nobody: {rule}", fg="yellow")


def sound(policies: Iterable[Mapping[str, Any]]) -> bool:
    """Whether every policy does what policies are for: something."""
    return not any(each["refused"] or each["inert"] for each in policies)


def probe(told: Mapping[str, Any], *, expected: bool) -> Iterator[str]:
    """What a probe showed, with its evidence. `expected`: it was held against an expectation, and where it passed that is all."""
    if expected:
        word, _, rest = told["text"].partition(" ")
        yield click.style(word, fg=_COLOUR.get(word), bold=True) + f" {rest}"
        if word == "passed":
            return
    else:
        word = told["verdict"]
        yield click.style(word, fg=_COLOUR[word], bold=True) + f": {told['flow']}: {told['why']}"
    for line in told["evidence"]:
        yield "".join(_styled(text, style) for text, style in line)


def _styled(text: str, style: str) -> str:
    """A span of a report, whose styles are those of pytest's terminal writer."""
    words = style.split()
    colour = next((word for word in words if word in _STYLES), None)
    return click.style(text, fg="magenta" if colour == "purple" else colour, bold="bold" in words or None, dim="light" in words or None)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows in columns under bold heads; columns that are empty in every row are left out."""
    kept = [index for index in range(len(heads)) if any(row[index] for row in rows)]
    widths = [max(len(heads[index]), *(len(row[index]) for row in rows)) for index in kept]
    for number, row in enumerate((heads, *rows)):
        line = "   ".join(row[index].ljust(width) for index, width in zip(kept, widths, strict=True)).rstrip()
        yield click.style(line, bold=True) if number == 0 else line


def listed(names: Sequence[str]) -> str:
    """`a, b, c and 3 more`."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def duration(seconds: float) -> str:
    """`45 s`, `3 min`, `8 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:g} h" if seconds % 3600 == 0 else f"{seconds / 3600:.1f} h"
