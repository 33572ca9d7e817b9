"""YAML's own traps: what its parser complains about, in words for a person, with the way out. Pure; knows text only."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct


class Diagnosis(Struct, frozen=True):
    """Where the trap is (from 0) and what to do."""

    line: int
    column: int
    length: int
    message: str
    hint: str | None = None


class Complaint(Struct, frozen=True):
    """What the parser says. Lines and columns count from 0. `context` is what it was doing, and since where."""

    problem: str
    context: str
    line: int
    column: int
    context_line: int | None = None
    context_column: int | None = None


_KEY = r"[A-Za-z_][\w.-]*"
_KEYED = re.compile(rf"(?:^\s*(?:-\s+)*(?:\{{\s*)?|[,{{]\s*)(?P<key>{_KEY})\s*:\s+(?P<text>\S.*?)\s*$")
_ACTION = re.compile(r"(?P<before>^.*?\b(?P<key>allow|deny|audit)\s*:\s+)(?P<text>\S.*?)\s*$")
_NEXT_KEY = re.compile(rf",\s*{_KEY}\s*:(\s|$)")
_BESIDE = "reason|at|by|status|headers|http|family|timeout|within|undeclared"
_INDENT = "is the indentation the same as its neighbours'?"
_COLON = "`: ` inside a text makes it a mapping to YAML"


def quoted(text: str) -> str:
    """The text in the quotes that need no escapes."""
    if '"' in text or "\\" in text:
        return "'" + text.replace("'", "''") + "'"
    return f'"{text}"'


def diagnose(lines: Sequence[str], complaint: Complaint) -> Diagnosis:
    """What a parser's complaint is about."""
    text = _line(lines, complaint.line)
    indentation = text[: len(text) - len(text.lstrip())]
    if "\t" in indentation and "cannot start any token" in complaint.problem:
        return Diagnosis(complaint.line, text.index("\t"), 1, "a tab in the indentation", "YAML wants spaces there")
    places = [(complaint.line, complaint.column)]
    if complaint.context_line is not None and complaint.context_column is not None:
        places.append((complaint.context_line, complaint.context_column))
    for line, column in places:
        found = _expectation(_line(lines, line), line, column) or _value(_line(lines, line), line, column, complaint)
        if found:
            return found
    return _unclosed(lines, complaint) or _no_key(lines, complaint) or _other(complaint)


def _line(lines: Sequence[str], number: int) -> str:
    return lines[number] if number < len(lines) else ""


def _expectation(line: str, number: int, column: int) -> Diagnosis | None:
    """An expectation whose text YAML cannot take as it stands."""
    match = _ACTION.match(line)
    if not match:
        return None
    key, text, start = match["key"], match["text"], match.end("before")
    flow = "{" in match["before"]
    if flow:
        text = _within_braces(text)
        if column > start + len(text) + 1:
            return None
    trap = _trap(key, text, flow=flow)
    return Diagnosis(number, start + trap.column, trap.length, trap.message, trap.hint) if trap else None


def _within_braces(text: str) -> str:
    """The value as it was meant: up to the next key, or to the brace that closes the mapping."""
    following = _NEXT_KEY.search(text)
    if following:
        return text[: following.start()]
    depth = 0
    for index, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth < 0:
            return text[:index].rstrip()
    return text


def _trap(key: str, text: str, *, flow: bool) -> Diagnosis | None:
    """The trap in one text, with columns from its beginning."""

    def answer(message: str, column: int, length: int, fixed: str) -> Diagnosis:
        return Diagnosis(0, column, length, message, f"quote this: {key}: {quoted(fixed)}")

    if text[0] == "*":
        return answer("a text that begins with `*` is an alias to YAML", 0, 1, text)
    if text[0] in "\"'":
        end = text.find(text[0], 1)
        if end > 0 and text[end + 1 :].strip():
            return answer("to YAML the text ends at the second quote", 0, end + 1, (text[1:end] + text[end + 1 :]).strip())
        return None
    if text[0] == "[":
        end = text.find("]")
        if end > 0 and text[end + 1 :].strip():
            fixed = text[1:end] + text[end + 1 :]
            return Diagnosis(
                0, 0, end + 1, "to YAML `[` begins a list, and nothing may follow it", f"lists have commas alone: {key}: {fixed}"
            )
        return None
    if text[0] in "@`%&!|>{":
        return answer(f"a text may not begin with `{text[0]}` in YAML", 0, 1, text)
    colon = re.search(r":(\s|$)", text)
    beside = re.search(rf"\s({_BESIDE})$", text[: colon.start()]) if colon else None
    if colon and beside:
        message = f"`{beside[1]}:` stands in the text of `{key}`"
        return Diagnosis(
            0, beside.start(1), len(beside[1]) + 1, message, f"put `{text[beside.start(1) :]}` into a line of its own, below `{key}`"
        )
    if colon:
        return answer(_COLON, colon.start(), 1, text)
    bracket = re.search(r"[\[\]{}]", text) if flow else None
    if bracket:
        return answer(f"inside braces YAML does not take `{bracket[0]}` as text", bracket.start(), 1, text)
    return None


def _value(line: str, number: int, column: int, complaint: Complaint) -> Diagnosis | None:
    """A value that begins with a character of YAML's own, or holds a second `: `."""
    problem, context = complaint.problem, complaint.context
    if "alias" in problem or "alias" in context:
        star = max(0, line.rfind("*", 0, column + 1))
        return Diagnosis(number, star, 1, "a text that begins with `*` is an alias to YAML", f"quote this: {quoted(_word(line[star:]))}")
    before = line[:column].rstrip()
    if before.endswith(('"', "'")) and before.find(before[-1]) < len(before) - 1 and "block mapping" in context:
        start = before.rfind(before[-1], 0, len(before) - 1)
        whole = before[start + 1 : -1] + line[len(before) :].rstrip()
        return Diagnosis(number, start, len(before) - start, "to YAML the text ends at the second quote", f"quote this: {quoted(whole)}")
    tag = re.search(r"[\[,:{-]\s*(![\w-]+)", line)
    if tag and ("tag" in problem or "tag" in context or "flow sequence" in context):
        return Diagnosis(number, tag.start(1), len(tag[1]), "a text that begins with `!` is a tag to YAML", f"quote this: {quoted(tag[1])}")
    if line[column : column + 1] in ("@", "`", "%") and "cannot start any token" in problem:
        word = _word(line[column:])
        return Diagnosis(number, column, len(word), f"a text may not begin with `{word[0]}` in YAML", f"quote this: {quoted(word)}")
    folded = re.search(r":\s+(?P<text>[>|][^\s}\],-][^}\],#]*)", line)
    if folded and ("block scalar" in context or "cannot start any token" in problem or "expected" in problem):
        word = folded["text"].rstrip()
        begins = f"a text that begins with `{word[0]}` spans lines to YAML"
        return Diagnosis(number, folded.start("text"), len(word), begins, f"quote this: {quoted(word)}")
    if "unexpected ':'" in problem:
        return Diagnosis(number, column, 1, "a `:` at the end of a key needs a blank behind it", "as in `{key: , other: value}`")
    if "mapping values are not allowed" in problem:
        match = _KEYED.match(line)
        if match and re.search(r":(\s|$)", match["text"]):
            return Diagnosis(number, column, 1, _COLON, f"quote this: {match['key']}: {quoted(match['text'])}")
        return Diagnosis(number, column, 1, "a key may not stand here", _INDENT)
    return None


def _word(text: str) -> str:
    """A flow value from its beginning to what ends it."""
    return re.split(r"[,}\]]|\s#", text)[0].strip()


def _unclosed(lines: Sequence[str], complaint: Complaint) -> Diagnosis | None:
    """A bracket or quote that opens and is not closed: shown where it opens."""
    line, column = complaint.context_line, complaint.context_column
    if line is None or column is None:
        return None
    noticed = f"noticed in line {complaint.line + 1}"
    if "quoted scalar" in complaint.context and "end of stream" in complaint.problem:
        return Diagnosis(line, column, 1, "the quote that opens here is never closed", "close it")
    for what, closing in (("flow mapping", "}"), ("flow sequence", "]")):
        if what in complaint.context:
            opening = _line(lines, line)[column : column + 1]
            if line != complaint.line:
                return Diagnosis(
                    line, column, 1, f"the `{opening}` that opens here is not closed ({noticed})", f"is a `{closing}` or a comma missing?"
                )
            return Diagnosis(
                complaint.line,
                complaint.column,
                1,
                f"expected `,` or `{closing}` here",
                f"text with {opening} {closing} or quotes in it needs quotes",
            )
    return None


def _no_key(lines: Sequence[str], complaint: Complaint) -> Diagnosis | None:
    """A line that stands where a key is wanted, and has none: shown itself, not the line after it where YAML gives up."""
    line, column = complaint.context_line, complaint.context_column
    if line is None or column is None or "simple key" not in complaint.context:
        return None
    words = re.split(r"\s#", _line(lines, line)[column:])[0].rstrip()
    return Diagnosis(
        line,
        column,
        max(1, len(words)),
        "expected `key: value` here",
        "a text that goes on is indented more than its key; a list item begins with `- `",
    )


def _other(complaint: Complaint) -> Diagnosis:
    line, column = complaint.line, complaint.column
    begun = complaint.context_line
    since = f" that begins in line {begun + 1}" if begun is not None and begun != line else ""
    if "block mapping" in complaint.context:
        return Diagnosis(line, column, 1, f"expected another key of the mapping{since}", _INDENT)
    if "block collection" in complaint.context or "block sequence" in complaint.context:
        return Diagnosis(line, column, 1, f"expected another `- ` of the list{since}", _INDENT)
    message = f"not YAML: {complaint.problem}" if complaint.problem else "not YAML"
    if complaint.context:
        message += f" ({complaint.context}{since})"
    return Diagnosis(line, column, 1, message)
