"""Where labs that stay up are found: a folder for each name, held by a lock as long as its keeper lives. Starts and asks nothing.

The folders are in the user's run-time directory, else among the temporary files, and only their owner may enter.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from harness.cases.suggest import did_you_mean
from harness.clusters.netns.launch import alive, parent_folder
from harness.errors import ClusterError, UsageError

DEFAULT_NAME = "lab"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?")
_NEW = ".new-"
_YOUNG = 60.0
"""A folder that is just being made (s) has no lock yet."""
_LONGEST_HOME = 64
"""A unix socket's path is at most 107 bytes; a name and the file's own come on top."""
_UP = "`harness lab up CASE.yaml` starts one"


class LabFolder(Struct, frozen=True):
    """The folder of one lab."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def control(self) -> Path:
        """The keeper's socket: there once the lab can be used."""
        return self.path / "lab.sock"

    @property
    def flows(self) -> Path:
        """The socket of the Hubble Observer."""
        return self.path / "hubble.sock"

    @property
    def log(self) -> Path:
        """What the keeper printed."""
        return self.path / "log"

    def pod_files(self, place: str) -> Path:
        """The folder of the files that a place of the lab (`shop/web`) has in place of the machine's own, such as `hosts`."""
        return self.path / "etc" / place.replace("/", ".")

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def home() -> Path:
    """The folder that all labs of this user are in, made where it is missing. Raises ClusterError where it is not safely theirs."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and len(runtime) <= _LONGEST_HOME and _is_ours(Path(runtime)):
        path = Path(runtime) / "harness"
    else:
        path = parent_folder() / f"harness-{os.geteuid()}"
        if len(str(path)) > _LONGEST_HOME:
            path = Path("/tmp") / path.name  # noqa: S108 -- only a folder of ours, which nobody else may enter, is used there
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    if not _is_ours(path):
        raise ClusterError(
            f"{path} belongs to somebody else, or others may enter it", hint="Remove it, or set XDG_RUNTIME_DIR to a folder of your own."
        )
    return path


def _is_ours(path: Path) -> bool:
    try:
        about = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid() and not about.st_mode & 0o077


def take(name: str) -> tuple[LabFolder, int]:
    """A new folder under this name, and its lock, held. Raises UsageError where a lab of that name is up."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a lab", hint="lower-case letters, digits and `-` in between, at most 30")
    parent = home()
    new = Path(tempfile.mkdtemp(prefix=_NEW, dir=parent))
    lock = os.open(new / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Under its final name it has a holder from the first moment on.
        folder = LabFolder(parent / name)
        try:
            new.rename(folder.path)
        except OSError:
            if alive(folder.path):
                raise UsageError(
                    f"a lab called `{name}` is up already",
                    hint=f"`harness lab down{_option(name)}` ends it; `--name NAME` starts another beside it",
                ) from None
            folder.remove()
            new.rename(folder.path)
    except BaseException:
        os.close(lock)
        shutil.rmtree(new, ignore_errors=True)
        raise
    return folder, lock


def find(name: str | None) -> LabFolder:
    """The lab of that name; without one, the only lab that is up. Raises UsageError where there is none, or where it could be several."""
    labs = list(living())
    if name is not None:
        found = next((each for each in labs if each.name == name), None)
        if found is None:
            hint = f"{did_you_mean(name, [each.name for each in labs], noun='up are')}; {_UP}" if labs else _UP
            raise UsageError(f"no lab called `{name}` is up", hint=hint)
        return found
    if not labs:
        raise UsageError("no lab is up", hint=_UP)
    if len(labs) > 1:
        raise UsageError(f"{len(labs)} labs are up: say which", hint=" or ".join(f"--name {each.name}" for each in labs))
    return labs[0]


def living() -> Iterator[LabFolder]:
    """The labs of this user that are up, by name. What dead ones left is removed."""
    for path in sorted(home().iterdir()):
        if not path.is_dir() or path.is_symlink():
            continue
        if alive(path):
            if not path.name.startswith(_NEW):
                yield LabFolder(path)
        elif _NAME.fullmatch(path.name) or (path.name.startswith(_NEW) and time.time() - path.stat().st_mtime > _YOUNG):
            shutil.rmtree(path, ignore_errors=True)


def _option(name: str) -> str:
    return "" if name == DEFAULT_NAME else f" --name {name}"
