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


LONGEST_LABEL, LONGEST_NAME = 63, 253
"""Characters, without the last dot (RFC 1035, 2.3.4)."""


def impossible(name: str) -> str:
    """Why nothing in DNS has this name, or one that this pattern matches, in words; '' where something can."""
    text = name.strip().removesuffix(".")
    if text and set(text) <= {"*"}:
        return ""
    labels = text.split(".")
    if "" in labels:
        return "a label of it is empty"
    least = [label.replace("*", "") or "?" for label in labels]
    long = next((label for label in least if len(label) > LONGEST_LABEL), "")
    if long:
        return f"`{long[:12]}...` has {len(long)} characters, and a label has {LONGEST_LABEL} at most"
    length = len(".".join(least))
    return f"it has {length} characters, and a name has {LONGEST_NAME} at most" if length > LONGEST_NAME else ""


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
