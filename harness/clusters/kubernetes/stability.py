"""Is a change in force, where no agent can be asked? Probes between the case's pods are repeated until they do what the policy model says of
the change, or at least the same for long enough. Not a verdict: what is expected of the case is not looked at."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from itertools import chain, count, islice, zip_longest

from msgspec import Struct

from harness.cases.case import Case, Placement, Serve
from harness.model.probe import Ending, Probe, ProbeResult, Site
from harness.model.traffic import Family, PodRef, Protocol, Traffic
from harness.model.verdict import Verdict
from harness.policy.evaluate import Evaluator
from harness.probes.agent import Agent

ROUNDS = 3
"""How many times in a row all must do the same."""
PATIENCE = 5.0
"""How long it may go on otherwise than the model says (s): the model, or the sample, may be wrong."""
_MOST = 40
_TIMEOUT = 0.5
"""A probe without an answer in this time counts as denied (s)."""
_BETWEEN = 0.1


class Path(Struct, frozen=True):
    """A connection to look at: from one pod to a port of another, at this address."""

    source: PodRef
    target: PodRef
    address: str
    port: int


class Stability(Struct, frozen=True):
    """What was found: how many connections, how many of them otherwise than the model says, and after how many rounds."""

    paths: int
    otherwise: int
    rounds: int

    def __str__(self) -> str:
        if not self.paths:
            return "no connection between the case's pods could be looked at"
        found = "as the policy model says" if not self.otherwise else f"unchanged, {self.otherwise} of them not as the policy model says"
        return f"probe stability: {self.paths} connections were {found}, {ROUNDS} times in a row"


def paths(case: Case, placement: Placement, before: Evaluator, after: Evaluator) -> tuple[Path, ...]:
    """The connections to look at, at most 40: those that the change makes or breaks and those that it leaves, in turns."""
    every = []
    own = [ref for spec in case.endpoints.values() if not spec.host_network for ref in spec.pods()]
    for spec in case.endpoints.values():
        for port in spec.ports:
            if spec.host_network or port.protocol is not Protocol.TCP or port.serve not in (Serve.AUTO, Serve.HTTP, Serve.ECHO):
                continue
            for target in spec.pods():
                address = next(iter(placement.addresses.get(f"pod:{target}", ())), None)
                sources = (ref for ref in own if ref != target)
                every += [Path(source, target, address, port.port) for source in sources if address is not None]
    changed = [path for path in every if _allowed(before, path) != _allowed(after, path)]
    same = [path for path in every if path not in set(changed)]
    return tuple(islice((path for path in chain.from_iterable(zip_longest(changed, same)) if path is not None), _MOST))


def _allowed(evaluator: Evaluator, path: Path) -> bool:
    return evaluator.verdict(Traffic(path.source, path.target, Protocol.TCP, path.port)).verdict is Verdict.ALLOW


async def stable(agent: Agent, looked_at: Sequence[Path], after: Evaluator, *, patience: float = PATIENCE) -> Stability:
    """Repeat the connections until they are stable. A connection that cannot be tried (its pod broke) is as one that is denied."""
    wanted = {path: _allowed(after, path) for path in looked_at}
    numbers = count(1)
    clock = asyncio.get_running_loop().time
    began = clock()
    last: Mapping[Path, bool] = {}
    same = 0
    for rounds in count(1):
        found = await _round(agent, looked_at, numbers)
        same = same + 1 if found == last else 1
        last = found
        otherwise = sum(found[path] != wanted[path] for path in looked_at)
        if not looked_at or (same >= ROUNDS and (not otherwise or clock() - began > patience)):
            return Stability(len(looked_at), otherwise, rounds)
        if clock() - began > 4 * patience:
            return Stability(len(looked_at), max(otherwise, 1), rounds)
        await asyncio.sleep(_BETWEEN)
    raise AssertionError("count ends")


async def _round(agent: Agent, looked_at: Sequence[Path], numbers: count[int]) -> Mapping[Path, bool]:
    probes = {next(numbers): path for path in looked_at}
    answered = {
        event.id
        async for event in agent.run([_probe(number, path) for number, path in probes.items()])
        if isinstance(event, ProbeResult) and event.ending in (Ending.ANSWERED, Ending.RESET)
    }
    return {path: number in answered for number, path in probes.items()}


def _probe(number: int, path: Path) -> Probe:
    # No server is named, so none is asked whether it saw this.
    return Probe(
        number,
        Site("pod", str(path.source)),
        Protocol.TCP,
        Family.of(path.address),
        path.address,
        path.port,
        secrets.token_hex(8),
        _TIMEOUT,
    )
