"""Sends probes from inside pods: the agent of each pod that a plan involves is told the probes, and tells their events. Servers are asked,
over the talk with their own pod, whether they saw what was not answered."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from harness.cases.case import Serve
from harness.cases.resolver import KUBE_DNS
from harness.clusters.kubernetes import nodes
from harness.clusters.kubernetes.client import API_ERRORS, Api
from harness.clusters.kubernetes.deploy import fault_of
from harness.clusters.kubernetes.exec import Exit
from harness.clusters.kubernetes.externals import WITNESS
from harness.clusters.kubernetes.talks import Talk, Talks
from harness.model.flow import FiveTuple
from harness.model.probe import Ending, Probe, ProbeResult
from harness.model.traffic import Family, PodRef, Protocol, RequestKind
from harness.probes.agent import AgentEvent, Bound

_FIRST_PORT, _LAST_PORT = 20000, 60999
_PROBES_A_LINE = 100
_BARE_NAME = "harness.invalid"
"""What a DNS server is asked for where a probe names nothing: it has no such name, and says so."""
_DNS_REFUSED = 5
_A_PROXY_SAID = frozenset({502, 503, 504})
_SINK_POLL = 0.05
"""How often a server that never answers is asked whether it saw the probe (s)."""


@dataclass(slots=True)
class _Held:
    """An ending whose servers are still being asked whether they saw the probe."""

    result: ProbeResult
    waiting: set[PodRef]
    unknown: str = ""


@dataclass(slots=True)
class _Plan:
    """One plan under way."""

    probes: dict[int, Probe]
    talks: Mapping[PodRef, Talk] = field(default_factory=dict)
    held: dict[int, _Held] = field(default_factory=dict)
    sinks: set[int] = field(default_factory=set)
    """Probes to servers that never answer, under way."""
    sunk: dict[int, str] = field(default_factory=dict)
    """Of those, the ones that were seen, and by whom."""


class PodAgent:
    """The pods of one case as an `Agent`. `pods` says where each is; `owners` whose each address is; `vouched` are addresses and ports
    outside for which the user answers: who answers there is the one who is meant. `names` are the addresses that each name of the case must
    lead to, or what is known of the name is not what is connected to."""

    def __init__(
        self,
        api: Api,
        pods: Mapping[PodRef, PodRef],
        owners: Mapping[str, frozenset[str]],
        vouched: frozenset[tuple[str, int]] = frozenset(),
        names: Mapping[str, frozenset[str]] = MappingProxyType({}),
    ) -> None:
        self._api = api
        self._pods = pods
        self._talks = Talks(api, pods)
        self._owners = owners
        self._vouched = vouched
        self._names = names
        self._ports: dict[PodRef, Iterator[int]] = {}
        self._plan: _Plan | None = None

    async def stop(self, probe_id: int) -> None:
        plan = self._plan
        if plan is not None and probe_id in plan.probes:
            talk = plan.talks.get(self._site(plan.probes[probe_id]))
            if talk is not None:
                talk.say(f"stop {probe_id}")

    async def open(self) -> None:
        """Get every pod ready to take part. What does not work is tried again when it is needed, and told then."""
        await self._talks.begin(self._pods)

    def close(self) -> None:
        """Leave the pods. From any thread."""
        self._talks.close()

    async def run(self, probes: Sequence[Probe]) -> AsyncIterator[AgentEvent]:
        """Whatever breaks is the result of the probes that it concerns: ERROR, with the reason."""
        plan = self._plan = _Plan({probe.id: probe for probe in probes})
        polling: asyncio.Task[None] | None = None
        try:
            for result in self._nowhere(plan):
                yield result
            involved = dict.fromkeys(itertools.chain.from_iterable(self._involved(probe) for probe in plan.probes.values()))
            plan.talks = await self._talks.begin(involved)
            async for event in self._start(plan):
                yield event
            polling = asyncio.create_task(self._poll_sinks(plan))
            while plan.probes:
                talk, said = await self._talks.hear()
                for event in await self._heard(plan, talk, said):
                    yield event
        finally:
            if polling is not None:
                polling.cancel()
            if plan.probes:  # whoever asked lost interest
                self._talks.drop(plan.talks)
            self._plan = None

    # Who takes part

    def _involved(self, probe: Probe) -> Iterator[PodRef]:
        yield self._site(probe)
        yield from self._servers(probe)

    def _site(self, probe: Probe) -> PodRef:
        """The pod a probe is sent from; one that is nowhere where none can be. A witness proves that what is not the case's own is alive."""
        if probe.liveness and ((probe.site.kind == "world" and self._is_vouched(probe)) or self._asks_a_resolver(probe)):
            return WITNESS
        if probe.site.kind != "pod" or "/" not in probe.site.name:
            return PodRef("", str(probe.site))
        return PodRef(*probe.site.name.split("/", 1))

    def _is_vouched(self, probe: Probe) -> bool:
        return probe.protocol is Protocol.TCP and (probe.address, probe.port) in self._vouched

    def _asks_a_resolver(self, probe: Probe) -> bool:
        """Whether it is a question to the cluster's own DNS, which says neither who answers nor what it saw."""
        return probe.serve == Serve.DNS and not any(True for _ in self._servers(probe))

    def _servers(self, probe: Probe) -> tuple[PodRef, ...]:
        """The pods whose answer is the intended one, and which can be asked."""
        named = map(_named, probe.expected_servers)
        return tuple(ref for ref in named if ref in self._pods)

    def _nowhere(self, plan: _Plan) -> list[ProbeResult]:
        """Probes from sites where nothing can be run."""
        results = [
            _error(probe, f"there is no pod to send it from: {probe.site}")
            for probe in plan.probes.values()
            if self._site(probe) not in self._pods
        ]
        for result in results:
            del plan.probes[result.id]
        return results

    async def _start(self, plan: _Plan) -> AsyncIterator[AgentEvent]:
        """Send, now that every agent is ready: no probe meets a server that is still starting."""
        for talk in plan.talks.values():
            if not talk.usable:
                for event in await self._broken(plan, talk):
                    yield event
        for pod, talk in plan.talks.items():
            mine = [probe for probe in plan.probes.values() if self._site(probe) == pod]
            for first in range(0, len(mine), _PROBES_A_LINE):
                lines = [self._message(probe, pod) for probe in mine[first : first + _PROBES_A_LINE]]
                talk.say("plan " + json.dumps(lines, separators=(",", ":")))
        plan.sinks = {probe.id for probe in plan.probes.values() if probe.serve == "sink" and probe.request is None}

    def _message(self, probe: Probe, pod: PodRef) -> Mapping[str, Any]:
        ports = self._ports.setdefault(pod, itertools.cycle(range(_FIRST_PORT, _LAST_PORT + 1)))
        port = next(each for each in ports if each != probe.port)  # a socket can connect to itself
        request = probe.request
        http = None
        if probe.protocol is Protocol.TCP:
            if request is not None and request.kind is RequestKind.HTTP:
                http = {"method": request.method, "path": request.path, "host": request.host, "headers": request.headers}
            elif request is None and probe.serve in {"auto", "http"}:
                http = {"method": "GET", "path": "/", "host": "", "headers": []}
        more: dict[str, Any] = {"vouched": True} if self._is_vouched(probe) else {}
        if probe.serve == Serve.DNS:
            marked = not self._asks_a_resolver(probe)  # others hand options on to strangers
            more["lookup"] = {"name": _name(probe), "family": probe.family.value, "marked": marked}
        return {
            **more,
            "id": probe.id,
            "protocol": probe.protocol.value,
            "address": probe.address,
            "port": probe.port,
            "nonce": probe.nonce,
            "timeout": probe.timeout,
            "source": probe.source_address,
            "from": port,
            "http": http,
        }

    # What the agents say

    async def _heard(self, plan: _Plan, talk: Talk, said: dict[str, Any] | Exit) -> list[AgentEvent]:
        if isinstance(said, Exit):
            talk.exit = said
            return await self._broken(plan, talk)
        if "bound" in said:
            return [Bound(said["bound"], _five(said["five"]), said["time"])] if said["bound"] in plan.probes else []
        if "result" in said:
            return self._result(plan, said)
        if "seen" in said:
            return self._saw(plan, talk, said["seen"], said["saw"])
        return []

    def _result(self, plan: _Plan, said: Mapping[str, Any]) -> list[AgentEvent]:
        probe = plan.probes.get(said["result"])
        if probe is None:
            return []
        plan.sinks.discard(probe.id)
        result = ProbeResult(
            id=probe.id,
            ending=Ending(said["ending"]),
            started=said["started"],
            ended=said["ended"],
            five_tuple=_five(said["five"]) if said["five"] else None,
            server=said["server"],
            nonce=said["nonce"],
            status=said["status"],
            detail=said["detail"],
            attempts=2 if plan.talks[self._site(probe)].retried else 1,
        )
        if probe.id in plan.sunk:
            result = replace(result, ending=Ending.ANSWERED, server=plan.sunk[probe.id], nonce=probe.nonce, server_saw=True)
        elif result.ending is Ending.ANSWERED and self._is_vouched(probe) and result.status in _A_PROXY_SAID:
            result = replace(result, ending=Ending.RESET, detail=f"{result.status}: a gateway's answer, not the server's")
        elif result.ending is Ending.ANSWERED and self._is_vouched(probe):
            result = replace(result, server=next(iter(probe.expected_servers), ""), nonce=probe.nonce, server_saw=True)
        elif result.ending is Ending.ANSWERED and self._asks_a_resolver(probe):
            result = self._resolved(probe, result, said["addresses"])
        elif result.ending is Ending.ANSWERED:
            server = result.server or ("" if probe.protocol.has_ports else self._owner(probe))
            result = replace(result, server=server, server_saw=result.nonce == probe.nonce and server in probe.expected_servers)
        else:
            servers = [pod for pod in self._servers(probe) if pod in plan.talks]
            if servers and probe.protocol.has_ports and result.five_tuple is not None:
                return self._hold(plan, probe, result, servers)
        del plan.probes[probe.id]
        return [result]

    def _resolved(self, probe: Probe, result: ProbeResult, found: Sequence[str]) -> ProbeResult:
        """An answer of the cluster's DNS. Any but a refusal is its own: those a proxy on the way says, which names nobody."""
        name = _name(probe)
        known = {each for each in self._names.get(name.rstrip(".").lower(), ()) if Family.of(each) is probe.family}
        if found and known and known.isdisjoint(found):
            return _error(probe, f"{name} leads to {', '.join(found)} by the cluster's DNS, and to {', '.join(sorted(known))} in the case")
        detail = "; ".join(each for each in (f"{name} is at {', '.join(found)}" if found else "", result.detail) if each)
        if result.status == _DNS_REFUSED:
            return replace(result, detail=detail)
        server = next(iter(probe.expected_servers), "") or self._owner(probe) or str(KUBE_DNS)
        return replace(result, server=server, nonce=probe.nonce, server_saw=True, detail=detail)

    def _owner(self, probe: Probe) -> str:
        """Whose address a ping went to. A node's is that of every pod in its network."""
        owners = self._owners.get(probe.address, frozenset())
        return next((each for each in probe.expected_servers if each in owners), min(owners, default=""))

    def _hold(self, plan: _Plan, probe: Probe, result: ProbeResult, servers: Iterable[PodRef]) -> list[AgentEvent]:
        held = _Held(result, set())
        for pod in servers:
            talk = plan.talks[pod]
            if talk.usable:
                held.waiting.add(pod)
                talk.say(f"seen {probe.id} {probe.nonce}")
            else:
                held.unknown = _why(talk)
        plan.held[probe.id] = held
        return [] if held.waiting else self._let_go(plan, probe.id, saw=False)

    def _saw(self, plan: _Plan, talk: Talk, number: int, saw: bool | None) -> list[AgentEvent]:
        held = plan.held.get(number)
        if held is None:
            probe = plan.probes.get(number)
            if saw and probe is not None and number in plan.sinks:
                plan.sinks.discard(number)
                plan.sunk[number] = str(talk.pod)
                plan.talks[self._site(probe)].say(f"stop {number}")
            return []
        held.waiting.discard(talk.pod)
        if saw is None:
            held.unknown = f"{talk.pod} could not say whether it saw the probe"
        return self._let_go(plan, number, saw=bool(saw)) if saw or not held.waiting else []

    def _let_go(self, plan: _Plan, number: int, *, saw: bool) -> list[AgentEvent]:
        held = plan.held.pop(number)
        del plan.probes[number]
        result = replace(held.result, server_saw=saw)
        if held.unknown and not saw:
            # "It did not arrive" would be a guess.
            result = replace(result, ending=Ending.ERROR, detail=f"whether the server saw it is unknown: {held.unknown}")
        return [result]

    async def _poll_sinks(self, plan: _Plan) -> None:
        while True:
            for number in tuple(plan.sinks):
                probe = plan.probes[number]
                for pod in self._servers(probe):
                    talk = plan.talks.get(pod)
                    if talk is not None and talk.usable:
                        talk.say(f"seen {number} {probe.nonce}")
            await asyncio.sleep(_SINK_POLL)

    # What breaks

    async def _broken(self, plan: _Plan, talk: Talk) -> list[AgentEvent]:
        """A pod's exec is over: its own probes have no result, and nobody can say what its server saw."""
        why = _why(talk)
        mine = [probe for probe in plan.probes.values() if self._site(probe) == talk.pod and probe.id not in plan.held]
        asked = [number for number, held in plan.held.items() if talk.pod in held.waiting]
        if mine or asked:
            fate = await asyncio.to_thread(self._fate, talk.there)
            why = f"{why}; the pod {fate}" if fate else why
        results: list[AgentEvent] = []
        for probe in mine:
            plan.sinks.discard(probe.id)
            del plan.probes[probe.id]
            results.append(_error(probe, why))
        for number in asked:
            held = plan.held[number]
            held.waiting.discard(talk.pod)
            held.unknown = why
            if not held.waiting:
                results += self._let_go(plan, number, saw=False)
        return results

    def _fate(self, there: PodRef) -> str:
        """What became of a pod (evicted, out of memory, gone), as the end of a sentence."""
        try:
            pod = self._api.core.read_namespaced_pod(there.name, there.namespace, _request_timeout=5)
        except API_ERRORS as error:
            return "is gone" if getattr(error, "status", 0) == 404 else ""
        return fault_of(pod)


def _name(probe: Probe) -> str:
    """What a probe of a DNS server asks for."""
    return probe.request.name if probe.request is not None else _BARE_NAME


def _named(server: str) -> PodRef:
    """The pod that is a server."""
    if "/" not in server:
        return nodes.site(server.removeprefix(nodes.server("")))
    return PodRef(*server.split("/", 1))


def _five(five: Sequence[Any]) -> FiveTuple:
    return FiveTuple(Protocol(five[0]), five[1], five[2], five[3], five[4])


def _why(talk: Talk) -> str:
    stderr = talk.exec.stderr.strip().splitlines()[-1:] if talk.exec is not None else []
    reason = talk.exit.why or f"the agent ended with code {talk.exit.code}" if talk.exit is not None else "the agent is not ready"
    again = " (also the second time)" if talk.retried and talk.exit is not None and not talk.exit.opened else ""
    return f"exec into {talk.there}: {reason}{again}{': ' + stderr[0] if stderr else ''}"


def _error(probe: Probe, detail: str) -> ProbeResult:
    now = time.time_ns()
    return ProbeResult(probe.id, Ending.ERROR, now, now, detail=detail)
