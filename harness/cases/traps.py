"""YAML's own traps: what its parser complains about, in words for a person, with the way out. Pure; knows text only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Where the trap is (from 0) and what to do."""

    line: int
    column: int
    length: int
    message: str
    hint: str | None = None


_KEYED = re.compile(r"(?P<head>^\s*(?:-\s+)*(?:\{\s*)?|[,{]\s*)(?P<key>[A-Za-z_][\w.-]*)(?P<colon>\s*:\s+)(?P<text>\S.*?)\s*$")
_ACTION = re.compile(r"(?P<before>^.*?\b(?P<key>allow|deny|audit)\s*:\s+)(?P<text>\S.*?)\s*$")


def quoted(text: str) -> str:
    """The text in the quotes that need no escapes."""
    if '"' in text or "\\" in text:
        return "'" + text.replace("'", "''") + "'"
    return f'"{text}"'


def diagnose(
    lines: Sequence[str],
    *,
    problem: str,
    context: str,
    line: int,
    column: int,
    context_line: int | None,
    context_column: int | None,
) -> Diagnosis:
    """What a parser's complaint at `line`, `column` (from 0) is about. `context` is what the parser was doing, and since where."""
    text = lines[line] if line < len(lines) else ""
    if "\t" in text[: len(text) - len(text.lstrip())] and "cannot start any token" in problem:
        return Diagnosis(line, text.index("\t"), 1, "a tab in the indentation", "YAML wants spaces there")
    for at, where in ((line, column), (context_line, context_column)):
        if at is not None and where is not None and at < len(lines):
            found = _expectation(lines, at) or _value(lines, at, where, problem, context)
            if found:
                return found
    return _plain(problem, context, line, column, context_line)


def _expectation(lines: Sequence[str], line: int) -> Diagnosis | None:
    """An expectation whose text YAML cannot take as it stands."""
    match = _ACTION.match(lines[line])
    if not match:
        return None
    key, text, start = match["key"], match["text"], match.end("before")
    flow = "{" in match["before"]
    if flow:
        text = text.rstrip("} ")
        if text.count("{") > text.count("}"):
            text += "}"

    def answer(message: str, at: int, length: int, fixed: str) -> Diagnosis:
        return Diagnosis(line, start + at, length, message, f"quote this: {key}: {quoted(fixed)}")

    if text[0] == "*":
        return answer("a text that begins with `*` is an alias to YAML", 0, 1, text)
    if text[0] in "\"'":
        end = text.find(text[0], 1)
        if end > 0 and text[end + 1 :].strip():
            whole = (text[1:end] + text[end + 1 :]).strip()
            return answer("to YAML the text ends at the second quote", 0, end + 1, whole)
        return None
    if text[0] == "[":
        whole = re.sub(r"^\[(.*?)\]", r"\1", text)
        message = "to YAML `[` begins a list, and nothing may follow it"
        if "]" in text and text[text.index("]") + 1 :].strip():
            return Diagnosis(line, start, text.index("]") + 1, message, f"lists are written with commas alone: {key}: {whole}")
        return None
    if text[0] in "@`%&!|>{":
        return answer(f"a text may not begin with `{text[0]}` in YAML", 0, 1, text)
    colon = re.search(r":(\s|$)", text)
    if colon:
        return answer("`: ` inside a text makes it a mapping to YAML", colon.start(), 1, text)
    bracket = re.search(r"[\[\]{}]", text) if flow else None
    if bracket:
        return answer(f"inside braces `{bracket[0]}` ends the text to YAML", bracket.start(), 1, text)
    return None


def _value(lines: Sequence[str], line: int, column: int, problem: str, context: str) -> Diagnosis | None:
    """A value that begins with a character of YAML's own, or holds a second `: `."""
    text = lines[line]
    rest = text[column:]
    if "alias" in problem or "alias" in context:
        star = text.rfind("*", 0, column + 1)
        word = re.split(r"[,}\]]|\s#", text[star:])[0].strip() if star >= 0 else "*"
        return Diagnosis(line, max(star, 0), 1, "a text that begins with `*` is an alias to YAML", f"quote this: {quoted(word)}")
    if rest[:1] and rest[0] in "@`%" and "cannot start any token" in problem:
        word = re.split(r"[,}\]]|\s#", rest)[0].strip()
        return Diagnosis(line, column, 1, f"a text may not begin with `{rest[0]}` in YAML", f"quote this: {quoted(word)}")
    folded = re.search(r":\s+([>|][^\s}\],]+(?:[^}\],]*[^\s}\],])?)", text)
    if folded and (context == "while scanning a block scalar" or "cannot start any token" in problem or "expected" in problem):
        word = folded[1]
        begins = f"a text that begins with `{word[0]}` spans lines to YAML"
        return Diagnosis(line, folded.start(1), len(word), begins, f"quote this: {quoted(word)}")
    if "mapping values are not allowed" in problem:
        match = _KEYED.match(text)
        if match and ":" in match["text"]:
            fixed = f"{match['key']}: {quoted(match['text'])}"
            return Diagnosis(line, column, 1, "`: ` inside a text makes it a mapping to YAML", f"quote this: {fixed}")
        return Diagnosis(line, column, 1, "a key may not stand here", "is the indentation the same as its neighbours'?")
    return None


def _plain(problem: str, context: str, line: int, column: int, context_line: int | None) -> Diagnosis:
    message = f"not YAML: {problem}" if problem else "not YAML"
    if context:
        since = f" that begins in line {context_line + 1}" if context_line is not None and context_line != line else ""
        message += f" ({context}{since})"
    hint = None
    if "flow mapping" in context:
        hint = "is a closing `}` or a comma missing?"
    elif "flow sequence" in context:
        hint = "is a closing `]` or a comma missing?"
    elif "block mapping" in context or "block collection" in context or "block sequence" in context:
        hint = "is the indentation the same as its neighbours'?"
    elif "quoted scalar" in context:
        hint = "is a closing quote missing?"
    return Diagnosis(line, column, 1, message, hint)
