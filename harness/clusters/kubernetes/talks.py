"""The open line to each pod of a case: one exec of its agent, opened when a plan first needs it and kept until the case ends, for to open one
takes longer than all that is said over it. What is said is the business of `pods`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.clusters.kubernetes.client import Api
from harness.clusters.kubernetes.exec import Exec, Exit
from harness.clusters.kubernetes.objects import CLIENT, CONTAINER
from harness.model.traffic import PodRef

_READY = 30.0
"""How long an exec may take to be ready (s)."""
_KEPT = 5.0
"""How long one that was open already may take to answer before it counts as broken: something on the way forgot the connection (s)."""

Said = dict[str, Any] | Exit


@dataclass(slots=True, eq=False)
class Talk:
    """One pod's exec. `ready`: its agent and the pod's server have answered for this plan; `kept`: it was open before."""

    pod: PodRef
    there: PodRef
    exec: Exec | None = None
    exit: Exit | None = None
    ready: bool = False
    kept: bool = False
    retried: bool = False

    @property
    def usable(self) -> bool:
        return self.exit is None and self.ready

    def say(self, line: str) -> None:
        """Ignored when it is over."""
        if self.exec is not None:
            self.exec.send(line)


class Talks:
    """The talks of one case. Used on one event loop, but for `close`."""

    def __init__(self, api: Api, pods: Mapping[PodRef, PodRef]) -> None:
        """`pods` says where each is."""
        self._api = api
        self._pods = pods
        self._open: dict[PodRef, Talk] = {}
        self._said: asyncio.Queue[tuple[Talk, Said]] = asyncio.Queue()

    async def begin(self, pods: Iterable[PodRef]) -> Mapping[PodRef, Talk]:
        """A talk to each pod, once each is ready, or has an exit that says why it never will be. Nothing was sent yet, so that a
        second attempt hides nothing."""
        self._catch_up()
        names = tuple(pods)
        for pod in names:
            talk = self._open.get(pod)
            if talk is None or talk.exit is not None:
                self._new(pod)
            else:
                talk.kept, talk.ready, talk.retried = True, False, False
                talk.say("ready")
        await self._until_ready(names)
        return {pod: self._open[pod] for pod in names}

    async def hear(self) -> tuple[Talk, Said]:
        """The next thing that one of them says."""
        while True:
            talk, said = await self._said.get()
            if self._open.get(talk.pod) is talk:
                return talk, said

    def drop(self, pods: Iterable[PodRef]) -> None:
        """End these: what they would still say belongs to a plan that is over."""
        for pod in pods:
            if talk := self._open.pop(pod, None):
                _end(talk)

    def close(self) -> None:
        """End all of them. From any thread."""
        self.drop(tuple(self._open))

    async def _until_ready(self, pods: Iterable[PodRef]) -> None:
        now = asyncio.get_running_loop().time
        began = now()
        while waiting := [talk for talk in map(self._open.__getitem__, pods) if talk.exit is None and not talk.ready]:
            kept = [talk for talk in waiting if talk.kept]
            try:
                talk, said = await asyncio.wait_for(self.hear(), max(0.0, began + (_KEPT if kept else _READY) - now()))
            except TimeoutError:
                for each in kept:
                    _end(each)
                    self._new(each.pod)
                if not kept:
                    for each in waiting:
                        each.exit = Exit(None, f"the agent in {each.there} was not ready within {_READY:g} s")
                continue
            if isinstance(said, Exit):
                if talk.ready or talk.retried:
                    talk.exit = said
                else:
                    self._new(talk.pod, retried=not talk.kept)
            elif "ready" in said:
                talk.ready = True

    def _new(self, pod: PodRef, *, retried: bool = False) -> None:
        loop = asyncio.get_running_loop()
        talk = self._open[pod] = Talk(pod, self._pods[pod], retried=retried)

        def tell(said: Said) -> None:
            loop.call_soon_threadsafe(self._said.put_nowait, (talk, said))

        talk.exec = Exec(
            self._api,
            talk.there,
            CLIENT,
            container=CONTAINER,
            on_line=lambda line: tell(_parsed(line)),
            on_end=tell,
        )
        talk.exec.start()

    def _catch_up(self) -> None:
        """Learn what ended meanwhile; whatever else was said came after its plan."""
        while not self._said.empty():
            talk, said = self._said.get_nowait()
            if isinstance(said, Exit):
                talk.exit = said


def _end(talk: Talk) -> None:
    if talk.exec is not None:
        talk.exec.send("end")
        talk.exec.close()


def _parsed(line: str) -> dict[str, Any]:
    """A line of an agent; what is none (a warning of the interpreter, say) says nothing."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
