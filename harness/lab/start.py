"""Starting a lab that stays up: its keeper, by exec, in a session of its own, so that it outlives the shell. Both sides of that are here."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import harness
from harness.clusters.netns.wire import Decoder, encode
from harness.errors import ClusterError, HarnessError
from harness.lab import calls
from harness.lab.folder import LabFolder, take
from harness.lab.keeper import Keeper, Settings

MODULE = "harness.lab"
_TAIL = 12


def start(name: str, settings: Settings) -> LabFolder:
    """A lab of this name, up and ready. Raises UsageError where there is one already, and what the keeper met where it cannot be had."""
    folder, lock = take(name)
    try:
        calls.read_answer(_spawn(folder, lock, settings))
    except BaseException:
        folder.remove()
        raise
    finally:
        os.close(lock)
    return folder


def _spawn(folder: LabFolder, lock: int, settings: Settings) -> bytes:
    """Start the keeper; what it says when it is ready, or cannot be."""
    ours, theirs = os.pipe()
    source = str(Path(harness.__file__).parents[1])
    try:
        with folder.log.open("wb") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-m", MODULE, json.dumps({"folder": str(folder.path), "ready": theirs})],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(theirs, lock),
                start_new_session=True,
                cwd="/",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))},
            )
    finally:
        os.close(theirs)
    with os.fdopen(ours, "rb") as answers:
        try:
            # One that has died already tells why by its log.
            with suppress(BrokenPipeError):
                _tell(keeper, settings)
            return answers.readline() or _ended(folder.log)
        except BaseException:
            keeper.kill()
            keeper.wait()
            raise


def _tell(keeper: subprocess.Popen[bytes], settings: Settings) -> None:
    """Both ends are the same code, one started by the other: values go as they are."""
    assert keeper.stdin is not None  # noqa: S101 -- it is a pipe
    with keeper.stdin as pipe:
        pipe.write(encode(settings))


def _ended(log: Path) -> bytes:
    """The answer in the stead of a keeper that gave none."""
    lines = log.read_text(errors="replace").strip().splitlines()
    said = "; it said:\n" + "\n".join(lines[-_TAIL:]) if lines else ""
    return calls.refusal(ClusterError(f"the lab's keeper ended before it was ready{said}"))


def main() -> None:
    """The keeper's own side: until the lab has ended."""
    about = json.loads(sys.argv[1])
    folder = LabFolder(Path(about["folder"]))
    ready: int = about["ready"]
    (settings,) = Decoder().feed(sys.stdin.buffer.read())
    try:
        asyncio.run(_keep(folder, settings, ready))
    except HarnessError as error:
        with suppress(OSError):
            os.write(ready, calls.refusal(error))
    finally:
        folder.remove()


async def _keep(folder: LabFolder, settings: Settings, ready: int) -> None:
    keeper = Keeper(folder, settings)

    def tell() -> None:
        os.write(ready, calls.answer({}))
        os.close(ready)

    await keeper.run(tell)
    sys.stderr.write(f"the lab ended: {keeper.why}\n")
