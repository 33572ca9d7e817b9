from __future__ import annotations

import json
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.cases.document import Items, LibyamlLoader, PurePythonLoader, Table, Text, parse_documents
from harness.cases.manifests import plain
from harness.cases.source import Source
from harness.cases.typed import typed

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp")), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


def parse(text: str, loader: object = None) -> list[object]:
    return [plain(each) for each in parse_documents(Source("x.yaml", text), loader=loader)]


@given(JSON.filter(lambda value: value is not None))
def test_json_comes_back_as_it_was(value: object):
    assert parse(json.dumps(value, ensure_ascii=False)) == [value]


_NO_TEXT_TO_GO = re.compile(r"[yYnN]|[-+]?(0[oO][0-7_]*|(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?)")


def _no_text_to_go(value: object) -> bool:
    """Whether `y`, `08` or `1e3` is in it: a boolean or a number to go-yaml, text to PyYAML, which leaves it unquoted."""
    if isinstance(value, dict):
        return any(_no_text_to_go(each) for pair in value.items() for each in pair)
    if isinstance(value, list):
        return any(map(_no_text_to_go, value))
    return isinstance(value, str) and _NO_TEXT_TO_GO.fullmatch(value) is not None


@given(JSON.filter(lambda value: value is not None and not _no_text_to_go(value)), st.booleans())
def test_what_yaml_writes_comes_back_as_it_was(value: object, flow: bool):
    assert parse(yaml.safe_dump(value, default_flow_style=flow)) == [value]


@given(JSON)
def test_both_loaders_give_the_same_values_at_the_same_places(value: object):
    text = yaml.safe_dump([value], allow_unicode=True)

    def places(node: object) -> list[object]:
        if isinstance(node, Text):
            return [str(node), node.place.line, node.place.column]
        if isinstance(node, Items):
            return [places(each) for each in node]
        assert isinstance(node, Table)
        return [[str(key), key.place.line, key.place.column, places(each)] for key, each in node.entries()]

    fast, slow = (parse_documents(Source("x.yaml", text), loader=loader) for loader in (LibyamlLoader, PurePythonLoader))
    assert [places(each) for each in fast] == [places(each) for each in slow]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("nil", "nil"),
        ("yes", True), ("y", True), ("on", True), ("True", True), ("no", False), ("off", False), ("n", False), ("tRue", "tRue"),
        ("8080", 8080), ("-1", -1), ("1_000", 1000), ("0x1F", 31), ("010", 8), ("0o10", 8), ("0b11", 3), ("0", 0), ("089", 89.0),
        ("1.10", 1.1), ("1e3", 1000.0), (".5", 0.5), (".inf", float("inf")), ("1.2.3", "1.2.3"),
        ("1:30", "1:30"), ("2001-01-01", "2001-01-01"), ("GET", "GET"), ("8080/TCP", "8080/TCP"), ("+", "+"), ("-", "-"), (".", "."),
    ],
)  # fmt: skip
def test_plain_scalars_are_typed_as_kubectl_types_them(text: str, value: object):
    assert typed(text) == value
    assert type(typed(text)) is type(value)


def test_quotes_and_tags_make_text():
    assert parse("""["8080", 'no', !!str 8080, !!int "5"]""") == [["8080", "no", "8080", 5]]
    assert parse('"8080"') == ["8080"]
    assert parse("!!str no") == ["no"]
    assert parse("|-\n  8080") == ["8080"]


def test_keys_become_text():
    assert parse("{on: 1, 8080: 2, ~: 3, 1.50: 4}") == [{"true": 1, "8080": 2, "~": 3, "1.5": 4}]


def test_merge_keys_merge_and_do_not_override():
    assert parse("base: &b {a: 1, b: 2}\nit: {<<: *b, b: 3}\n") == [{"base": {"a": 1, "b": 2}, "it": {"a": 1, "b": 3}}]


def test_empty_documents_are_left_out():
    assert parse("---\n---\na: 1\n---\n# nothing\n---\nb: 2\n") == [{"a": 1}, {"b": 2}]


def test_places_count_characters_in_crlf_files_too():
    (document,) = parse_documents(Source("x.yaml", "é: x\r\nü: [ä, o]\r\n"))
    assert isinstance(document, Table)
    letter = document["ü"][1]
    assert (letter.place.line, letter.place.column) == (2, 8)
    assert letter.place.source.line(2) == "ü: [ä, o]"


@pytest.mark.parametrize(
    ("text", "part", "line", "column"),
    [
        ("k: a -> b:80", "b:80", 1, 9),
        ('k: "a -> b:80"', "b:80", 1, 10),
        ("k: >-\n  a,\n  c -> b:80", "b:80", 3, 8),
        ("k: a,\n   c -> b:80", "b:80", 2, 9),
        (r'k: "\x61 -> b:80"', "b:80", 1, 13),
    ],
)
def test_a_part_of_a_text_is_found_however_the_text_is_written(text: str, part: str, line: int, column: int):
    (document,) = parse_documents(Source("x.yaml", text))
    assert isinstance(document, Table)
    value = document["k"]
    place = value.part(value.index(part), len(part))
    assert (place.line, place.column) == (line, column)
