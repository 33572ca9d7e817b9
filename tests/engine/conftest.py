"""Cases for the engine's tests: written as users write them, in YAML."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cases.case import Case
from harness.cases.load import load_cases


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Case]:
    """A case from the text of a case file."""

    def load_one(text: str) -> Case:
        path = tmp_path / "test_case.yaml"
        path.write_text(textwrap.dedent(text))
        (case,) = load_cases(path)
        return case

    return load_one
