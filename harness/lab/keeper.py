"""The process that keeps a lab up: its parent, and the one whom all commands ask. Ends when it is told to, or is not used for long.

It is to the lab what a test process is: when it dies, by whatever signal, the lab dies with it. The shell that started it is not its parent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import Struct

from harness.cases.case import Case, PolicyObject
from harness.clusters.base import Change
from harness.clusters.netns.cluster import LabOptions, NetnsCluster
from harness.errors import ClusterError, HarnessError, Location, UsageError
from harness.lab import calls
from harness.lab.deployed import Deployed
from harness.lab.description import describe
from harness.lab.enter import end_those_inside
from harness.lab.folder import LabFolder
from harness.lab.places import Places
from harness.model.verdict import PolicyRef

_LONGEST_LINE = 256 << 20
_LOOK = 10.0
"""How often (s) it looks whether its folder is still there: a user's run-time directory goes when they log out."""
_NSSWITCH = "# Of the lab: names come from hosts and resolv.conf, and from nowhere else.\nhosts: files dns\n"


class Settings(Struct, frozen=True):
    """`idle` is for how long (s) the lab stays up unused, 0 for ever; `phase` whose policies are in force at the start, '' for none."""

    case: Case
    phase: str
    idle: float
    lab: LabOptions


class Keeper:
    """A lab with a case in it, and the answers to those who ask."""

    def __init__(self, folder: LabFolder, settings: Settings) -> None:
        """Raises HarnessError where the lab cannot be had; nothing of it is left then."""
        self._folder = folder
        self._settings = settings
        self._since = time.time()
        self._used = time.monotonic()
        self._connections = 0
        self._turn = asyncio.Lock()
        self._ended = asyncio.Event()
        self.why = ""
        """Why it ended."""
        self._cluster = NetnsCluster(settings.lab)
        try:
            self._deployed = Deployed(self._cluster, settings.case)
            if settings.phase:
                self._deployed.bring_to(settings.case.phase(settings.phase))
            self._places = Places(settings.case, self._deployed.placement)
            folder.flows.symlink_to((self._cluster.flows() or "").removeprefix("unix://"))
        except BaseException:
            self._cluster.close()
            raise

    async def run(self, ready: Callable[[], None]) -> None:
        """Answer until the end. `ready` is called once calls can come."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._end, f"signal {number.name}")
        lab = os.pidfd_open(self._cluster.pid)
        loop.add_reader(lab, self._end, "the lab's process died")
        try:
            server = await asyncio.start_unix_server(self._serve, self._folder.control, limit=_LONGEST_LINE)
            ready()
            while not self._ended.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), _LOOK if not self._settings.idle else min(_LOOK, self._settings.idle / 4))
                self._look_around()
            server.close()
        finally:
            loop.remove_reader(lab)
            os.close(lab)
            self._close()

    def _look_around(self) -> None:
        if self._connections:
            self._used = time.monotonic()
        elif self._settings.idle and time.monotonic() - self._used >= self._settings.idle:
            self._end("nobody used it")
        if not self._folder.control.exists():
            self._end("its folder is gone")

    def _end(self, why: str) -> None:
        self.why = self.why or why
        self._ended.set()

    def _close(self) -> None:
        with suppress(HarnessError, OSError):  # a lab that is dead has nobody inside who could reach anything
            found = self._cluster.namespaces().values()
            inodes = {Path(f"/proc/{self._cluster.pid}/fd/{each}").stat().st_ino for each in found}
            end_those_inside(inodes, but=self._cluster.pid)
        self._cluster.close()

    # Calls

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            while line := await reader.readline():
                writer.write(await self._answer(line))
                await writer.drain()
        except (OSError, ValueError):
            pass  # who asked is gone, or is none of ours
        finally:
            self._connections -= 1
            self._used = time.monotonic()
            writer.close()

    async def _answer(self, line: bytes) -> bytes:
        try:
            said = calls.read_request(line)
            if said.call == "down":  # whatever else is under way
                self._end("it was told to")
                return calls.answer({})
            async with self._turn:
                return calls.answer(await asyncio.to_thread(_method(said.call), self, **said.arguments))
        except HarnessError as error:
            return calls.refusal(error)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the one who asked must hear of it, and the lab goes on
            traceback.print_exc()
            return calls.refusal(
                ClusterError(f"the lab could not answer: {type(error).__name__}: {error}", hint=f"More is in {self._folder.log}.")
            )

    def about(self) -> Mapping[str, Any]:
        """What tells this lab from others."""
        return {
            "name": self._folder.name,
            "case": self._settings.case.name,
            "namespace": self._settings.case.namespace,
            "phase": self._settings.phase,
            "cilium": self._settings.lab.cilium,
            "keeper": os.getpid(),
            "since": self._since,
            "idle": self._settings.idle,
            "flows": f"unix://{self._folder.flows}",
        }

    def status(self) -> Mapping[str, Any]:
        """Everything that is in the lab."""
        standing = self._deployed.standing(list(self._deployed.in_force.policies))
        return {**self.about(), **describe(self._places), "policies": standing}

    def apply(self, policies: list[Mapping[str, Any]]) -> Mapping[str, Any]:
        """Apply policies as one change: each is `ref` (kind, namespace, name), `document` and `location` (file, line, column, length)."""
        objects = [PolicyObject(PolicyRef(*each["ref"]), each["document"], Location(*each["location"])) for each in policies]
        return self._deployed.change(Change(apply=tuple(objects)))

    def delete(self, names: list[str]) -> Mapping[str, Any]:
        """Delete policies by their names as one change."""
        refs = dict.fromkeys(self._deployed.find(each) for each in names)
        return self._deployed.change(Change(remove=tuple(refs)))

    def probe(self, text: str) -> list[Mapping[str, Any]]:
        return self._deployed.probe(text)

    def check(self, text: str) -> list[Mapping[str, Any]]:
        return self._deployed.check(text)

    def enter(self, place: str) -> Mapping[str, Any]:
        """What `run_inside` needs to run something in a place."""
        site = self._places.find(place)
        folder = self._folder.pod_files(site.name)
        contents = {"hosts": self._places.hosts(site), "resolv.conf": self._places.resolv_conf(site), "nsswitch.conf": _NSSWITCH}
        if not folder.exists():  # what is inside already reads them
            folder.mkdir(parents=True)
            for name, text in contents.items():
                (folder / name).write_text(text)
        return {
            "process": self._cluster.pid,
            "namespace": self._cluster.namespaces()[site.lab_name],
            "hostname": site.hostname,
            "files": {f"/etc/{name}": str(folder / name) for name in contents},
        }


_CALLS: Mapping[str, Callable[..., Any]] = {
    method.__name__: method
    for method in (Keeper.about, Keeper.apply, Keeper.check, Keeper.delete, Keeper.enter, Keeper.probe, Keeper.status)
}
"""What may be asked; and `down`, which needs no turn."""


def _method(call: str) -> Callable[..., Any]:
    method = _CALLS.get(call)
    if method is None:
        raise UsageError(f"a lab cannot be asked for {call!r}")
    return method
