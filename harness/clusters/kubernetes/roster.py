"""Who of a run is still in, on this machine: a lock file for each run, held shared by each of its processes. The kernel lets go of it for
those that are killed. Knows nothing of the cluster: there a run's sign of life is its `lease`."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Roster:
    """One process's place in its run. `leaving` tells the last one out, so that exactly one cleans up."""

    def __init__(self, run: str, folder: Path | None = None) -> None:
        self._path = _file(run, folder or default_folder())
        self._held: int | None = None

    def enter(self) -> None:
        """Be one of the run from now on, until `leaving` or the process ends. Waits while a last one is cleaning up."""
        while self._held is None:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_at(descriptor, self._path):
                os.pwrite(descriptor, boot().encode(), 0)
                self._held = descriptor
            else:  # the last one out has removed it meanwhile
                os.close(descriptor)

    @contextmanager
    def leaving(self) -> Iterator[bool]:
        """Be no longer one of the run. True for the last one out: until the block ends nobody else can enter."""
        descriptor, self._held = self._held, None
        if descriptor is None:
            yield False
            return
        try:
            last = _alone(descriptor)
            yield last
            if last:
                self._path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def is_in(run: str, folder: Path | None = None) -> bool | None:
    """Whether a process of this run is alive; None where this machine cannot know: the run was never here, or before it was booted."""
    try:
        descriptor = os.open(_file(run, folder or default_folder()), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.pread(descriptor, 64, 0).decode(errors="replace") != boot():
            return None
        return not _alone(descriptor)
    finally:
        os.close(descriptor)


def forget(run: str, folder: Path | None = None) -> None:
    """Remove the lock file of a run that is over."""
    _file(run, folder or default_folder()).unlink(missing_ok=True)


@cache
def boot() -> str:
    """What tells this kernel, since it was booted, from every other."""
    with suppress(OSError):
        return _BOOT.read_text().strip()
    return "unknown"


def default_folder() -> Path:
    """The user's state folder, or where there is none to write to, one in the temporary folder that only this user can enter."""
    state = os.environ.get("XDG_STATE_HOME") or ""
    base = Path(state) if state.startswith("/") else Path("~/.local/state").expanduser()
    folder = base / "policy-harness" / "runs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"policy-harness-runs-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise
    return folder


def _file(run: str, folder: Path) -> Path:
    return folder / f"{run}.lock"


def _alone(descriptor: int) -> bool:
    """Whether nobody else holds the file; then it is held exclusively."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
