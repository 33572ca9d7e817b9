"""Structural schemas, as an API server applies them to custom resources: types, required keys, enums, patterns, sizes, oneOf and anyOf.

Small on purpose: just what Cilium's CRDs use. A server drops unknown fields silently unless it is asked to be strict, so checks ignore them
and `unknown_field` finds them; null counts as absent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, TypeAlias

import re2
from msgspec import Struct

from harness.policy.prefix import parse_prefix

Problem: TypeAlias = tuple[str, str]
"""Where, and what is wrong."""
Check: TypeAlias = Callable[[Any, str], Problem | None]
"""Looks at a value at a path; the first problem or None."""


class UnknownField(Struct, frozen=True):
    """A field that no schema has. `path` ends with its name, `known` are the names that might have been meant."""

    path: str
    name: str
    known: tuple[str, ...]


class _Found(Exception):  # noqa: N818 -- no error: the way out of a nested check
    def __init__(self, field: UnknownField) -> None:
        super().__init__(field.path)
        self.field = field


_STRICT: ContextVar[bool] = ContextVar("strict", default=False)


def unknown_field(check: Check, value: object, path: str) -> UnknownField | None:
    """The first field of the value that the check's schema does not have. A value that the check refuses anyway may give None."""
    token = _STRICT.set(True)
    try:
        check(value, path)
    except _Found as found:
        return found.field
    finally:
        _STRICT.reset(token)
    return None


def type_name(value: object) -> str:
    """The JSON type, in the API server's words."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case Mapping():
            return "object"
        case _:
            return "array" if is_array(value) else type(value).__name__


def is_array(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _wrong_type(value: object, path: str, wanted: str) -> Problem:
    return path, f'Invalid value: "{type_name(value)}": must be of type {wanted}'


@lru_cache(maxsize=256)
def compiled(pattern: str) -> Any:
    """The pattern in RE2, as Go and Envoy read it (also immune to catastrophic backtracking)."""
    return re2.compile(pattern)


def string(*, enum: Sequence[str] = (), pattern: str = "", max_length: int = 0, min_length: int = 0, cidr: bool = False) -> Check:
    allowed = frozenset(enum)
    listed = ", ".join(f'"{each}"' for each in enum)

    def check(value: Any, path: str) -> Problem | None:
        if not isinstance(value, str):
            return _wrong_type(value, path, "string")
        if allowed and value not in allowed:
            return path, f'Unsupported value: "{value}": supported values: {listed}'
        if max_length and len(value) > max_length:
            return path, f"Too long: may not be more than {max_length} bytes"
        if len(value) < min_length:
            return path, f'Invalid value: "{value}": should be at least {min_length} chars long'
        if pattern and not _matches(pattern, value):
            return path, f"Invalid value: \"{value}\": should match '{pattern}'"
        if cidr and not _is_cidr(value):
            return path, f'Invalid value: "{value}": must be of type cidr, such as 10.0.0.0/8 (a single address needs /32 or /128)'
        return None

    return check


@lru_cache(maxsize=16384)
def _matches(pattern: str, value: str) -> bool:
    try:
        return compiled(pattern).search(value) is not None
    except UnicodeEncodeError:
        return False  # a lone surrogate is no valid text for the API server either


@lru_cache(maxsize=8192)
def _is_cidr(value: str) -> bool:
    """As net.ParseCIDR, with the leading zeros in IPv4 octets that Kubernetes still accepts."""
    head, slash, tail = value.partition("/")
    if "." in head and ":" not in head:
        head = ".".join(octet.lstrip("0") or "0" if octet.isascii() and octet.isdigit() else octet for octet in head.split("."))
    tail = tail.lstrip("0") or "0" if tail else tail
    try:
        parse_prefix(f"{head}{slash}{tail}")
    except ValueError:
        return False
    return True


def integer(*, minimum: int = -(2**31), maximum: int = 2**31 - 1) -> Check:
    def check(value: Any, path: str) -> Problem | None:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            return _wrong_type(value, path, "integer")
        if value < minimum:
            return path, f"Invalid value: {value}: should be greater than or equal to {minimum}"
        if value > maximum:
            return path, f"Invalid value: {value}: should be less than or equal to {maximum}"
        return None

    return check


def integer_or_string(*, pattern: str) -> Check:
    """A number is not held against the pattern, only text is."""

    def check(value: Any, path: str) -> Problem | None:
        if isinstance(value, int) and not isinstance(value, bool):
            return None
        if not isinstance(value, str):
            return _wrong_type(value, path, "integer or string")
        if not _matches(pattern, value):
            return path, f"Invalid value: \"{value}\": should match '{pattern}'"
        return None

    return check


def boolean(value: Any, path: str) -> Problem | None:
    return None if isinstance(value, bool) else _wrong_type(value, path, "boolean")


def array(item: Check, *, max_items: int | None = None, min_items: int = 0) -> Check:
    def check(value: Any, path: str) -> Problem | None:
        if not is_array(value):
            return _wrong_type(value, path, "array")
        if max_items is not None and len(value) > max_items:
            return path, f"Too many: {len(value)}: must have at most {max_items} items"
        if len(value) < min_items:
            return path, f"Invalid value: {len(value)}: should have at least {min_items} items"
        for index, each in enumerate(value):
            problem = item(each, f"{path}[{index}]")
            if problem is not None:
                return problem
        return None

    return check


def mapping(value_check: Check) -> Check:
    """A free map from text to values that all pass the same check."""

    def check(value: Any, path: str) -> Problem | None:
        if not isinstance(value, Mapping):
            return _wrong_type(value, path, "object")
        for key, each in value.items():
            if not isinstance(key, str):
                return path, f"Invalid value: {key!r}: keys must be of type string"
            problem = value_check(each, f"{path}.{key}")
            if problem is not None:
                return problem
        return None

    return check


def record(
    fields: Mapping[str, Check],
    *,
    required: Sequence[str] = (),
    exactly_one: Sequence[str] = (),
    any_of: Sequence[str] = (),
) -> Check:
    """An object. `exactly_one` and `any_of` name fields of which one (exactly, at least) must be there."""

    def check(value: Any, path: str) -> Problem | None:
        if not isinstance(value, Mapping):
            return _wrong_type(value, path, "object")
        if _STRICT.get():
            for name in value:
                if name not in fields:
                    raise _Found(UnknownField(f"{path}.{name}".removeprefix("."), str(name), tuple(fields)))
        for name in required:
            if value.get(name) is None:
                return f"{path}.{name}", "Required value"
        for name, each in value.items():
            field = fields.get(name)
            if field is not None and each is not None:
                problem = field(each, f"{path}.{name}")
                if problem is not None:
                    return problem
        if exactly_one:
            found = [name for name in exactly_one if value.get(name) is not None]
            if len(found) != 1:
                wanted = "exactly one of " + ", ".join(exactly_one)
                return path, f"Invalid value: must have {wanted}; found {', '.join(found) or 'none'}"
        if any_of and all(value.get(name) is None for name in any_of):
            return path, f"Invalid value: must have at least one of {', '.join(any_of)}"
        return None

    return check
