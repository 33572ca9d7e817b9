"""Asking a lab's keeper: one JSON object a line, there and back, over a socket in a folder that only its owner may enter.

JSON and no pickle, since both ends may be of different versions: a lab outlives the installation that started it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self

from msgspec import Struct

import harness
from harness import errors
from harness.errors import ClusterError, HarnessError, Location, UsageError
from harness.lab.folder import LabFolder

ANY_VERSION = frozenset({"about", "down"})
"""The calls that every version understands: those needed to see that it is another, and to end it."""
_PATIENCE = 30.0
_CREDENTIALS = struct.Struct("3i")
"""What SO_PEERCRED tells: process, user and group of who listens."""


class Request(Struct, frozen=True):
    """A call by its name. `arguments` are JSON values, by name."""

    call: str
    arguments: Mapping[str, Any]

    def line(self) -> bytes:
        """As it travels."""
        return json.dumps({"call": self.call, "arguments": dict(self.arguments), "version": harness.__version__}).encode() + b"\n"


def read_request(line: bytes) -> Request:
    """The inverse of `Request.line`. Raises UsageError for what is no call, or is one of another version that this one may not understand."""
    try:
        said = json.loads(line)
        found, version = Request(said["call"], dict(said["arguments"])), str(said["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"not a call to a lab: {error}") from error
    if version != harness.__version__ and found.call not in ANY_VERSION:
        raise UsageError(
            f"the lab was started by harness {harness.__version__}, and this is harness {version}",
            hint="End it (`harness lab down`) and start it again.",
        )
    return found


def answer(value: Any) -> bytes:
    """The answer to a call: a JSON value."""
    return json.dumps({"value": value}).encode() + b"\n"


def refusal(error: HarnessError) -> bytes:
    """The answer to a call that failed: the error, which the other end raises again."""
    place = error.location
    return (
        json.dumps({
            "error": {
                "type": type(error).__name__,
                "message": error.message,
                "hint": error.hint,
                "location": [place.file, place.line, place.column, place.length] if place else None,
                "source_line": error.source_line,
            }
        }).encode()
        + b"\n"
    )


def read_answer(line: bytes) -> Any:
    """What an answer says. Raises the error that it holds."""
    said = json.loads(line)
    if "error" not in said:
        return said["value"]
    about = said["error"]
    kind = getattr(errors, about["type"], HarnessError)
    raise kind(
        about["message"],
        hint=about["hint"],
        location=Location(*about["location"]) if about["location"] else None,
        source_line=about["source_line"],
    )


class Caller:
    """A connection to a lab's keeper. While it is open the lab counts as used, and does not end by itself. Close it, or use `with`."""

    def __init__(self, folder: LabFolder) -> None:
        """Raises ClusterError where the lab does not answer: it is just starting, or just ending."""
        self.folder = folder
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.connect(str(folder.control))
        except OSError as error:
            self._socket.close()
            raise ClusterError(
                f"the lab `{folder.name}` does not answer: it is just starting, or ending ({error.strerror})",
                hint="Ask again in a moment; `harness lab list` says what is up.",
            ) from error
        self._lines = self._socket.makefile("rb")

    def call(self, name: str, **arguments: Any) -> Any:
        """The answer, as JSON values. Raises the HarnessError that the keeper met, or ClusterError where the lab ended meanwhile."""
        try:
            self._socket.sendall(Request(name, arguments).line())
            line = self._lines.readline()
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            raise ClusterError(f"the lab `{self.folder.name}` ended while it was asked")
        return read_answer(line)

    def hold(self) -> int:
        """The connection as a descriptor that a program started from here keeps open: the lab is used as long as that runs."""
        self._socket.set_inheritable(True)
        return self._socket.fileno()

    def end(self) -> None:
        """End the lab; returns when its keeper, the last of it, is gone. One that does not end by itself is killed, and the lab with it."""
        with suppress(ProcessLookupError):
            process, _, _ = _CREDENTIALS.unpack(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
            keeper = os.pidfd_open(process)
            try:
                self.call("down")
                if not select.select([keeper], [], [], _PATIENCE)[0]:
                    signal.pidfd_send_signal(keeper, signal.SIGKILL)
                    select.select([keeper], [], [])
                    self.folder.remove()
            finally:
                os.close(keeper)

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
