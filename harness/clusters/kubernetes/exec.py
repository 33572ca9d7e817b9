"""Commands inside pods: a stream with its own thread and API client, lines both ways, and an exit code that is never guessed."""

from __future__ import annotations

import json
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from kubernetes.stream import stream
from msgspec import Struct

from harness.clusters.kubernetes.client import API_ERRORS, Api, said
from harness.model.traffic import PodRef

_ERROR_CHANNEL = 3
_OPENING = threading.BoundedSemaphore(16)
"""How many handshakes are under way at once."""
_READ_AT_ONCE = 0.0


class Exit(Struct, frozen=True):
    """How a command ended. `code` None: unknown, and `why` says what broke; `opened` is false where it never began."""

    code: int | None
    why: str = ""
    opened: bool = True


class Output(Struct, frozen=True):
    exit: Exit
    stdout: str
    stderr: str


def exit_of(status: str) -> Exit:
    """The exit that the error channel tells (a `Status` object as JSON). Nothing there is no success."""
    if not status:
        return Exit(None, "the connection ended before the command's exit status came")
    try:
        told = json.loads(status)
        if told["status"] == "Success":
            return Exit(0)
        causes = told.get("details", {}).get("causes", [])
        codes = [cause["message"] for cause in causes if cause.get("reason") == "ExitCode"]
        return Exit(int(codes[0]), str(told.get("message", ""))) if codes else Exit(None, str(told.get("message") or status))
    except (ValueError, KeyError, TypeError, AttributeError):
        return Exit(None, status[:500])


class Exec(threading.Thread):
    """One command. `on_line` gets each line of its output and `on_end` how it ended, both on this thread."""

    def __init__(
        self,
        api: Api,
        pod: PodRef,
        command: Sequence[str],
        *,
        container: str | None = None,
        on_line: Callable[[str], None],
        on_end: Callable[[Exit], None],
    ) -> None:
        super().__init__(name=f"exec {pod}", daemon=True)
        self._api = api
        self.pod = pod
        self._command = list(command)
        self._container = container
        self._on_line = on_line
        self._on_end = on_end
        self._outgoing: deque[str] = deque()
        self._reader, self._waker = os.pipe()
        os.set_blocking(self._waker, False)
        self._lock = threading.Lock()
        self._over = False
        self._closing = False
        self._rest = ""
        self.stderr = ""

    def send(self, line: str) -> None:
        """A line for the command's standard input. From any thread; ignored when the command is over."""
        self._outgoing.append(line + "\n")
        self._wake()

    def close(self) -> None:
        """End the connection; the command sees its standard input closed. From any thread."""
        self._closing = True
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            if not self._over:
                try:
                    os.write(self._waker, b".")
                except BlockingIOError:
                    return  # it is awake anyway

    def run(self) -> None:
        end = Exit(None, "the connection broke")
        try:
            end = self._converse()
        except (*API_ERRORS, ValueError, AttributeError) as error:  # the last two: of a socket that closed under the client's feet
            end = Exit(None, f"the connection broke: {said(error)}")
        finally:
            with self._lock:
                self._over = True
                os.close(self._reader)
                os.close(self._waker)
            self._on_end(end)

    def _converse(self) -> Exit:
        core = self._api.streaming()
        more = {"container": self._container} if self._container else {}
        try:
            with _OPENING:
                channels = stream(
                    core.connect_get_namespaced_pod_exec,
                    self.pod.name,
                    self.pod.namespace,
                    command=self._command,
                    stdin=True,
                    stdout=True,
                    stderr=True,
                    tty=False,
                    _preload_content=False,
                    **more,
                )
        except API_ERRORS as error:
            return Exit(None, f"no exec into {self.pod}: {said(error)}", opened=False)
        try:
            return self._talk(channels)
        finally:
            channels.close()

    def _talk(self, channels: Any) -> Exit:
        poll = select.poll()
        poll.register(channels.sock.sock, select.POLLIN)
        poll.register(self._reader, select.POLLIN)
        while channels.is_open():
            # What TLS has already decrypted is not seen by poll.
            pending = getattr(channels.sock.sock, "pending", None)
            ready = poll.poll(0 if pending and pending() else None)
            if any(fd == self._reader for fd, _ in ready):
                os.read(self._reader, 4096)
                while self._outgoing:
                    channels.write_stdin(self._outgoing.popleft())
                if self._closing:
                    return Exit(None, "closed by us")
            channels.update(timeout=_READ_AT_ONCE)
            self._drain(channels)
        self._drain(channels)
        return exit_of(channels.read_channel(_ERROR_CHANNEL))

    def _drain(self, channels: Any) -> None:
        # Not read_stdout and read_stderr: they would wait for more.
        self.stderr += channels._channels.pop(2, "")  # noqa: SLF001 -- the client offers no look without a wait
        text = self._rest + channels._channels.pop(1, "")  # noqa: SLF001
        *lines, self._rest = text.split("\n")
        for line in lines:
            self._on_line(line)


def run(api: Api, pod: PodRef, command: Sequence[str], *, container: str | None = None, within: float = 30.0) -> Output:
    """Run a command to its end. Never raises: what broke is in the exit."""
    lines: list[str] = []
    ended: list[Exit] = []
    over = threading.Event()

    def end(exit_: Exit) -> None:
        ended.append(exit_)
        over.set()

    running = Exec(api, pod, command, container=container, on_line=lines.append, on_end=end)
    running.start()
    if not over.wait(within):
        running.close()
        return Output(Exit(None, f"no end of `{' '.join(command)[:60]}` within {within:g} s"), "\n".join(lines), running.stderr)
    return Output(ended[0], "\n".join([*lines, running._rest]), running.stderr)  # noqa: SLF001 -- the last line without an end
