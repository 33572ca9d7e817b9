"""Hints for mistyped words: "did you mean". Only words; where a mistake is found and shown is elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LISTED = 12


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was most likely meant, or None. Case and `-`/`_` count for nothing."""

    def folded(text: str) -> str:
        return text.casefold().replace("_", "-")

    by_folded = {folded(each): each for each in known}
    match = get_close_matches(folded(word), by_folded, n=1, cutoff=0.6)
    return by_folded[match[0]] if match else None


def did_you_mean(word: str, known: Iterable[str], *, noun: str = "known") -> str:
    """A hint: the closest known word, or what there is to choose from."""
    choices = list(dict.fromkeys(known))
    match = closest(word, choices)
    if match is not None:
        return f"did you mean `{match}`?"
    if not choices:
        return f"{noun}: none"
    listed = ", ".join(choices[:_LISTED])
    return f"{noun}: {listed}" + (f" and {len(choices) - _LISTED} more" if len(choices) > _LISTED else "")
