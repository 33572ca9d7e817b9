"""docs/case-format.md tells the truth: its examples load, its errors are the ones printed."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from harness.cases.load import load_cases
from harness.cases.raw import RESERVED
from harness.cases.scalars import FEATURES
from harness.errors import HarnessError

PAGE = (Path(__file__).parents[2] / "docs" / "case-format.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(yaml|text)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ERRORS = [(text, following) for (kind, text), (_, following) in itertools.pairwise(BLOCKS) if following.startswith("test_example.yaml:")]
EXAMPLES = [text for kind, text in BLOCKS if kind == "yaml" and text not in dict(ERRORS)]


def write(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    file = folder / "test_example.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str):
    (case,) = load_cases(write(tmp_path, text, monkeypatch))
    assert case.phases


@pytest.mark.parametrize(("text", "error"), ERRORS)
def test_an_error_is_the_one_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, error: str):
    with pytest.raises(HarnessError) as caught:
        load_cases(write(tmp_path, text, monkeypatch))
    assert str(caught.value) == error.rstrip("\n")


def test_there_are_examples_and_errors():
    assert len(EXAMPLES) >= 6
    assert len(ERRORS) >= 10


def test_features_and_kept_words_are_all_listed():
    for word in (*FEATURES, *RESERVED):
        assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", PAGE), word
