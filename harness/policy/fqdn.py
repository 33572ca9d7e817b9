"""DNS names against matchName and matchPattern, as Cilium's DNS proxy compares them (pkg/fqdn/matchpattern)."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import re2

_CHARACTERS = "[-a-zA-Z0-9_]"
_EVERYTHING = re.compile(r"[*]+[.]?")
_SUBDOMAINS = re.compile(r"^[*]{2,}\[\.\]")
_STARS = re.compile(r"[*]+")
_ANY_NAME = f"(^({_CHARACTERS}+[.])+$)|(^[.]$)"


def expression(pattern: str) -> str:
    """The anchored RE2 expression of a pattern: `*` stays within a label, a leading `**.` is one or more labels, only stars is any name."""
    pattern = pattern.strip().lower()
    if _EVERYTHING.fullmatch(pattern):
        return _ANY_NAME
    pattern = pattern.replace(".", "[.]")
    pattern = _SUBDOMAINS.sub(lambda _: f"({_CHARACTERS}+([.]{_CHARACTERS}+){{0,}})[.]", pattern)
    pattern = _STARS.sub(lambda _: f"{_CHARACTERS}*", pattern)
    return f"^{pattern}$"


def absolute(name: str) -> str:
    """The name with its trailing dot."""
    return name if name.endswith(".") else f"{name}."


class FQDNMatcher:
    """A matchName or a matchPattern, ready to match names (with or without the trailing dot, in any case)."""

    __slots__ = ("_program",)

    def __init__(self, match_name: str = "", match_pattern: str = "") -> None:
        if match_name:
            prepared = absolute(match_name)
        else:
            prepared = match_pattern if _EVERYTHING.fullmatch(match_pattern) else absolute(match_pattern)
        self._program = _compiled(expression(prepared))

    def matches(self, name: str) -> bool:
        try:
            return self._program.search(absolute(name).lower()) is not None
        except UnicodeEncodeError:
            return False


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> Any:
    return re2.compile(pattern)
