"""Where labs are found, and what is not taken for one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import ClusterError, UsageError
from harness.lab import folder
from harness.lab.folder import LabFolder


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Path(tmp_path).chmod(0o700)
    monkeypatch.setattr(folder, "_LONGEST_HOME", 200)  # no socket is made here
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def taken() -> Iterator[LabFolder]:
    found, lock = folder.take("one")
    yield found
    os.close(lock)


def test_a_lab_is_there_as_long_as_its_lock_is_held() -> None:
    found, lock = folder.take("one")
    assert [each.name for each in folder.living()] == ["one"]
    assert folder.find(None) == folder.find("one") == found
    assert found.path.stat().st_mode & 0o077 == 0
    os.close(lock)
    assert list(folder.living()) == []
    assert not found.path.exists()


def test_a_name_is_taken_once(taken: LabFolder) -> None:
    with pytest.raises(UsageError, match="a lab called `one` is up already") as caught:
        folder.take("one")
    assert "harness lab down --name one" in str(caught.value.hint)
    assert [each.name for each in taken.path.parent.iterdir()] == ["one"]


def test_the_name_of_a_dead_one_is_free_again() -> None:
    dead, lock = folder.take("one")
    (dead.path / "log").write_text("its last words")
    os.close(lock)
    again, lock = folder.take("one")
    assert not again.log.exists()
    os.close(lock)


@pytest.mark.parametrize("name", ["", "-", "a/b", "..", "A", "a" * 31, ".new-x"])
def test_names_are_names_of_folders_that_are_no_surprise(name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a lab"):
        folder.take(name)


def test_where_others_may_write_is_no_home(runtime: Path) -> None:
    (runtime / "harness").mkdir()
    (runtime / "harness").chmod(0o777)
    with pytest.raises(ClusterError, match="others may enter it"):
        folder.home()


def test_a_runtime_directory_that_is_not_ours_alone_is_not_used(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = runtime / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr(folder, "parent_folder", lambda: elsewhere)
    runtime.chmod(0o755)
    assert folder.home() == elsewhere / f"harness-{os.geteuid()}"


def test_what_is_no_lab_is_left_alone(runtime: Path) -> None:
    folder.home()
    (runtime / "harness" / "Notes").mkdir()
    (runtime / "harness" / "file").touch()
    (runtime / "harness" / "link").symlink_to(runtime)
    assert list(folder.living()) == []
    assert sorted(each.name for each in (runtime / "harness").iterdir()) == ["Notes", "file", "link"]
