"""How a phase that did not pass leaves pytest's test: one exception an outcome, and a representation without traceback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from _pytest._code.code import ReprFileLocation, TerminalRepr
from _pytest._io import TerminalWriter

if TYPE_CHECKING:
    from harness.reports.account import Account


class CheckFailure(AssertionError):  # noqa: N818 -- a failure of what is tested, not an error of the harness
    """The opposite of an expectation was proven."""

    def __init__(self, account: Account) -> None:
        super().__init__(account.summary)
        self.account = account

    __module__ = "harness"  # the short name, in pytest's one-line messages


class UnknownOutcome(Exception):  # noqa: N818 -- neither an error nor a failure
    """The evidence does not suffice. Not an AssertionError: nothing was proven wrong."""

    def __init__(self, account: Account) -> None:
        super().__init__(account.summary)
        self.account = account

    __module__ = "harness"


class FailureText(TerminalRepr):
    """An account on the terminal. `reprcrash` is where pytest's short summary and JUnit find the one-line message."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.reprcrash = ReprFileLocation(account.where[0], account.where[1], account.summary)

    def __str__(self) -> str:
        return str(self.account)

    def toterminal(self, tw: TerminalWriter) -> None:
        for line in self.account.lines:
            for text, style in line:
                tw.write(text, **_markup(style))
            tw.line()


def _markup(style: str) -> Mapping[str, bool]:
    return dict.fromkeys(style.split(), True)
