"""What several commands of `harness lab` have in common: which lab is meant, how to answer, and times."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from harness.errors import UsageError

_DURATION = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>[smh]?)")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_F = TypeVar("_F", bound=Callable[..., Any])


def which(function: _F) -> _F:
    """The option that says which lab is meant."""
    return click.option("--name", envvar="HARNESS_LAB", help="Which lab; not needed where one is up. [env: HARNESS_LAB]")(function)


def output(function: _F) -> _F:
    """The option for scripts."""
    return click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json: for scripts.")(function)


def seconds(text: str, option: str) -> float:
    """A time such as `90s`, `30m` or `8h` in seconds. Raises UsageError, which names the option."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{option} {text!r} is no time", hint="as in 90s, 30m or 8h")
    return float(match["number"]) * _UNITS[match["unit"]]


def show(*lines: Iterable[str]) -> None:
    """Print lines."""
    for each in lines:
        for line in each:
            click.echo(line)
