"""Fixtures: a folder for case files, and the mistake in one expectation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cases.case_folder import Folder, Mistake


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def expectation_mistake(folder: Folder) -> Callable[[str], Mistake]:
    """The mistake in one expectation of the preamble's case, given as YAML of a list item."""
    return lambda text: folder.mistake_in_phases(f"  baseline:\n    - {text}\n")
