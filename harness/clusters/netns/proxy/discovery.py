"""Where an Envoy asks for its listeners (Envoy's REST xDS), on a unix socket: answered when there is something new. What it asks for next
tells whether it took what it was given."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress

from harness.clusters.netns.proxy.config import JSON

_KIND = "type.googleapis.com/envoy.config.listener.v3.Listener"
_LARGEST = 1 << 16


class Refused(Exception):  # noqa: N818 -- a condition, which `envoy` turns into an error with Envoy's own words
    """Envoy did not take what it was given; what it had before stays in force."""


class Discovery:
    """Serves one Envoy."""

    def __init__(self) -> None:
        self._version = 0
        self._offered = 0
        self._listeners: Sequence[JSON] = ()
        self._new = asyncio.Event()
        self._taken: asyncio.Future[None] | None = None
        self._server: asyncio.Server | None = None
        self._closed = False
        self._talks: set[asyncio.StreamWriter] = set()

    async def start(self, path: str) -> None:
        self._server = await asyncio.start_unix_server(self._talk, path, limit=_LARGEST)

    def offer(self, listeners: Sequence[JSON]) -> asyncio.Future[None]:
        """These are the listeners from now on. Done when Envoy has taken them; Refused if it has not."""
        if self._taken is not None and not self._taken.done():
            self._taken.cancel()
        self._taken = asyncio.get_running_loop().create_future()
        self._listeners = listeners
        self._version += 1
        self._new.set()
        return self._taken

    def close(self) -> None:
        self._closed = True
        self._new.set()
        if self._server is not None:
            self._server.close()
        for writer in self._talks:
            writer.close()
        if self._taken is not None:
            self._taken.cancel()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._talks.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                has = await _question(reader)
                self._heard(int(has or 0))
                while self._offered == self._version and not self._closed:
                    self._new.clear()
                    await self._new.wait()
                if self._closed:
                    break
                self._offered = self._version
                body = json.dumps({"version_info": str(self._version), "type_url": _KIND, "resources": self._listeners}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        self._talks.discard(writer)
        writer.close()

    def _heard(self, version: int) -> None:
        taken = self._taken
        if not self._offered or taken is None or taken.done() or self._offered < self._version:
            return
        if version == self._offered:
            taken.set_result(None)
        else:
            taken.set_exception(Refused())


async def _question(reader: asyncio.StreamReader) -> str:
    """The version that Envoy has, from its next request."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = 0
    for line in head.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    version: str = json.loads(await reader.readexactly(length)).get("version_info", "")
    return version
