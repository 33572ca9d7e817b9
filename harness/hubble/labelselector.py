"""Label selectors as text, as `hubble observe --label` takes them: Kubernetes' syntax with Cilium's label sources (`k8s:app in (a, b)`).
Not the selectors of policies: those are `harness.policy`. Source: pkg/k8s/slim/k8s/apis/labels, pkg/hubble/filters/labels.go."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TypeAlias

from msgspec import Struct

from harness.model.labels import ANY, Label

LabelPredicate: TypeAlias = Callable[[Iterable[str]], bool]
"""Takes labels as flows list them, `source:key=value`."""

_TOKEN = re.compile(r"\s*(?:(?P<operator>==|!=|=|!|<|>|,|\(|\))|(?P<word>[^\s=!<>,()]+))")
_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


class Requirement(Struct, frozen=True):
    """One part of a selector. Operators: exists, !, =, !=, in, notin, <, >."""

    source: str
    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Iterable[Label]) -> bool:
        value = next((label.value for label in labels if label.key == self.key and self.source in {ANY, label.source}), None)
        match self.operator:
            case "exists":
                return value is not None
            case "!":
                return value is None
            case "=" | "in":
                return value is not None and value in self.values
            case "!=" | "notin":
                return value is None or value not in self.values
            case _:
                bound = int(next(iter(self.values)))
                if value is None or not re.fullmatch(r"[+-]?[0-9]+", value):
                    return False
                return int(value) > bound if self.operator == ">" else int(value) < bound


@lru_cache(maxsize=8192)
def _label(text: str) -> Label:
    return Label.parse(text)


def parse_selector(text: str) -> LabelPredicate:
    """The predicate for a selector such as `app=web,k8s:tier in (a, b),!canary`. A key without a source matches any source.

    Raises ValueError saying what was found and what was expected.
    """
    requirements = tuple(_Parser(text).parse())

    def matches(labels: Iterable[str]) -> bool:
        parsed = [_label(label) for label in labels]
        return all(requirement.matches(parsed) for requirement in requirements)

    return matches


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[str] = []
        position = 0
        while text[position:].strip():
            found = _TOKEN.match(text, position)
            if found is None:
                raise ValueError(f"found {text[position:]!r}, expected: identifier or operator")
            self._tokens.append(found.group("operator") or found.group("word"))
            position = found.end()
        self._at = 0

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _take(self) -> str:
        word = self._peek()
        self._at += 1
        return word

    def parse(self) -> Iterable[Requirement]:
        while self._peek():
            yield self._requirement()
            word = self._take()
            if word and word != ",":
                raise ValueError(f"found {word!r}, expected: ',' or 'end of string'")
            if word == "," and not self._peek():
                raise ValueError("found '', expected: identifier after ','")

    def _requirement(self) -> Requirement:
        absent = self._peek() == "!"
        if absent:
            self._take()
        source, key = self._key()
        if absent:
            return Requirement(source, key, "!")
        operator = self._peek()
        if operator in {"", ","}:
            return Requirement(source, key, "exists")
        self._take()
        match operator:
            case "=" | "==":
                return Requirement(source, key, "=", frozenset({self._value()}))
            case "!=":
                return Requirement(source, key, "!=", frozenset({self._value()}))
            case "in" | "notin":
                return Requirement(source, key, operator, self._values())
            case "<" | ">":
                bound = self._value()
                if not re.fullmatch(r"[+-]?[0-9]+", bound):
                    raise ValueError(f"{bound!r}: for '<' and '>' the value must be an integer")
                return Requirement(source, key, operator, frozenset({bound}))
            case _:
                raise ValueError(f"found {operator!r}, expected: in, notin, =, ==, !=, <, >")

    def _key(self) -> tuple[str, str]:
        word = self._take()
        source, colon, key = word.partition(":")
        if not colon:
            source, key = ANY, word
        prefix, slash, name = key.rpartition("/")
        if not _NAME.fullmatch(name) or (slash and not _PREFIX.fullmatch(prefix)):
            raise ValueError(f"found {word!r}, expected: identifier")
        return source, key

    def _value(self) -> str:
        if self._peek() in {"", ","}:
            return ""
        word = self._take()
        if word and word not in {"=", "==", "!=", "!", "<", ">", "(", ")"}:
            return word
        raise ValueError(f"found {word!r}, expected: identifier")

    def _values(self) -> frozenset[str]:
        if self._take() != "(":
            raise ValueError("expected: '(' after in and notin")
        values: set[str] = set()
        wanted = True
        while (word := self._take()) != ")":
            if not word:
                raise ValueError("found 'end of string', expected: ',', ')' or identifier")
            if word == ",":
                if wanted:
                    values.add("")
                wanted = True
            elif wanted and _NAME.fullmatch(word):
                values.add(word)
                wanted = False
            else:
                raise ValueError(f"found {word!r}, expected: ',' or ')'")
        if wanted:
            values.add("")
        return frozenset(values)
