"""From a plan to observations, with a real agent on loopback sockets and a real Observer on a unix socket.

Loopback drops nothing, so a target that never answers stands for one behind a drop, and the test publishes the flows that a node would.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from harness.clusters.base import Observation
from harness.clusters.observe import observe
from harness.errors import ClusterError
from harness.hubble.client import FlowFeed, Observer
from harness.hubble.server import FlowServer, FlowStore, serve
from harness.model.flow import FiveTuple, Flow, FlowEndpoint, FlowVerdict, LostEvents
from harness.model.probe import Ending, Probe, ProbeResult, Site
from harness.model.traffic import Direction, Family, Protocol
from harness.model.verdict import PolicyRef
from harness.probes.agent import AgentEvent, Bound

SITE = Site("pod", "shop/web")
POD = FlowEndpoint(301, "shop", "db")
WORLD = FlowEndpoint(2, labels=("reserved:world",))
LONG = 60.0
"""Longer than any test may take: whoever waits that long fails."""


def forwarded(bound: FiveTuple, **changes: Any) -> Flow:
    values = {
        "time": time.time_ns(),
        "verdict": FlowVerdict.FORWARDED,
        "five_tuple": bound,
        "direction": Direction.INGRESS,
        "destination": POD,
    }
    return Flow(**values | changes)


def dropped(bound: FiveTuple, reason: int = 133, **changes: Any) -> Flow:
    return forwarded(bound, verdict=FlowVerdict.DROPPED, drop_reason=reason, event_type=5, **changes)


Told = Callable[[AgentEvent], None]


def nothing(_: AgentEvent) -> None:
    pass


@dataclass
class LoopbackAgent:
    """Sends TCP probes from this process. `tell` is called with each event before it is handed out: the node that sees the packets."""

    tell: Told = nothing
    after: Told = nothing
    breaks_after: int | None = None
    error: Exception = field(default_factory=lambda: ClusterError("exec ended with code 137"))
    running: int = 0
    stopped: list[int] = field(default_factory=list)
    _stops: dict[int, asyncio.Event] = field(default_factory=dict)

    async def run(self, probes: Sequence[Probe]) -> AsyncIterator[AgentEvent]:
        events: asyncio.Queue[AgentEvent] = asyncio.Queue()
        tasks = [asyncio.create_task(self._probe(probe, events)) for probe in probes]
        self.running += 1
        results = 0
        try:
            while results < len(probes):
                event = await events.get()
                if isinstance(event, ProbeResult):
                    results += 1
                self.tell(event)
                yield event
                self.after(event)
                if results == self.breaks_after:
                    raise self.error
        finally:
            self.running -= 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self, probe_id: int) -> None:
        self.stopped.append(probe_id)
        self._stops[probe_id].set()

    async def _probe(self, probe: Probe, events: asyncio.Queue[AgentEvent]) -> None:
        loop = asyncio.get_running_loop()
        stop = self._stops.setdefault(probe.id, asyncio.Event())
        with socket.socket() as client:
            client.setblocking(False)
            client.bind(("127.0.0.1", 0))
            five = FiveTuple(Protocol.TCP, *client.getsockname(), probe.address, probe.port)
            started = time.time_ns()
            await events.put(Bound(probe.id, five, started))
            await asyncio.sleep(0)

            async def exchange() -> bytes:
                await loop.sock_connect(client, (probe.address, probe.port))
                await loop.sock_sendall(client, probe.nonce.encode() + b"\n")
                return await loop.sock_recv(client, 100)

            answer = asyncio.create_task(exchange())
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait((answer, stopping), timeout=probe.timeout, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            ending, nonce = Ending.STOPPED if stop.is_set() else Ending.TIMEOUT, ""
            if answer.done():
                if error := answer.exception():
                    assert isinstance(error, OSError)
                    ending = Ending.REFUSED if error.errno == errno.ECONNREFUSED else Ending.ERROR
                else:
                    ending, nonce = Ending.ANSWERED, answer.result().decode().strip()
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)
        await events.put(ProbeResult(probe.id, ending, started, time.time_ns(), five, "db" if nonce else "", nonce))


@dataclass
class Lab:
    """What a test has at hand: the store that the node's flows go to, the feed, and two ports of this machine."""

    store: FlowStore
    server: FlowServer
    feed: FlowFeed
    answering: int
    silent: int

    def probe(self, number: int = 1, *, silent: bool = False, timeout: float = LONG, **changes: Any) -> Probe:
        port = self.silent if silent else self.answering
        return Probe(number, SITE, Protocol.TCP, Family.IPV4, "127.0.0.1", port, f"n{number}", timeout, **changes)

    def publishing(self, *make: Callable[[FiveTuple], Flow | LostEvents]) -> Told:
        """The node that sees such flows as soon as a socket is bound."""

        def tell(event: AgentEvent) -> None:
            if isinstance(event, Bound):
                for one in make:
                    self.store.publish(one(event.five_tuple))

        return tell


@asynccontextmanager
async def a_lab(folder: Path) -> AsyncIterator[Lab]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with AsyncExitStack() as stack:
        listeners = [await asyncio.start_server(handler, "127.0.0.1", 0, backlog=1024) for handler in (echo, swallow)]
        for listener in listeners:
            stack.callback(listener.close)
        store = FlowStore(4096)
        server = await serve(store, [f"unix://{folder}/hubble.sock"])
        stack.push_async_callback(server.close)
        observer = await stack.enter_async_context(await Observer.connect(server.addresses[0]))
        feed = FlowFeed(observer, retry=0.01)
        await feed.start()
        stack.push_async_callback(feed.close)
        answering, silent = (listener.sockets[0].getsockname()[1] for listener in listeners)
        yield Lab(store, server, feed, answering, silent)


def run(
    folder: Path,
    plan: Callable[[Lab], Iterable[Probe]],
    agent: Callable[[Lab], LoopbackAgent],
    *,
    grace: float = 0.005,
    settle: float = LONG,
    flows: bool = True,
) -> list[Observation]:
    """The observations of the plan, in order of the probes' ids."""

    async def main() -> list[Observation]:
        async with a_lab(folder) as lab, asyncio.timeout(30):
            feed = lab.feed if flows else None
            sender = agent(lab)
            out = [one async for one in observe(sender, list(plan(lab)), feed, grace=grace, settle=settle)]
            assert sender.running == 0
            assert not lab.feed._registrations
            return sorted(out, key=lambda one: one.probe.id)

    return asyncio.run(main())


def test_an_answered_probe_comes_with_its_flow(tmp_path: Path):
    (one,) = run(tmp_path, lambda lab: [lab.probe()], lambda lab: LoopbackAgent(lab.publishing(forwarded)))
    assert one.result.ending is Ending.ANSWERED
    assert one.result.nonce == "n1"
    assert [flow.five_tuple for flow in one.flows] == [one.result.five_tuple]
    assert one.flows_on
    assert one.lost == ()


def test_an_answered_probe_waits_for_the_flow_of_the_last_hop(tmp_path: Path):
    def agent(lab: Lab) -> LoopbackAgent:
        def after(event: AgentEvent) -> None:
            if isinstance(event, ProbeResult):
                assert event.five_tuple
                lab.store.publish(forwarded(event.five_tuple, time=event.started))

        return LoopbackAgent(lab.publishing(lambda bound: forwarded(bound, direction=Direction.EGRESS)), after)

    (one,) = run(tmp_path, lambda lab: [lab.probe()], agent)
    assert {flow.direction for flow in one.flows} == {Direction.INGRESS, Direction.EGRESS}


def test_towards_what_is_no_pod_the_sources_egress_is_the_last_hop(tmp_path: Path):
    (one,) = run(
        tmp_path,
        lambda lab: [lab.probe()],
        lambda lab: LoopbackAgent(lab.publishing(lambda bound: forwarded(bound, direction=Direction.EGRESS, destination=WORLD))),
    )
    assert len(one.flows) == 1


def test_an_answered_probe_without_flows_is_given_up_after_settling(tmp_path: Path):
    (one,) = run(tmp_path, lambda lab: [lab.probe()], lambda _: LoopbackAgent(), settle=0.02)
    assert (one.result.ending, one.flows) == (Ending.ANSWERED, ())


@pytest.mark.parametrize(("silent", "make"), [(False, forwarded), (True, dropped)])
def test_nobody_is_given_up_before_the_flows_have_caught_up(tmp_path: Path, silent: bool, make: Callable[..., Flow]):
    """A machine so slow that settling is over long before the flow is even made: the source of flows says when that is."""

    async def main() -> list[Observation]:
        async with a_lab(tmp_path) as lab, asyncio.timeout(30):
            bound: list[FiveTuple] = []

            async def caught_up() -> None:
                # Made late, and read late: the time of its making lies far behind the end of the probe.
                lab.store.publish(make(bound[0], time=time.time_ns() + 10**10))
                await lab.feed.reach(lab.store.seen_flows, within=LONG)

            agent = LoopbackAgent(lambda event: bound.append(event.five_tuple) if isinstance(event, Bound) else None)
            probe = lab.probe(silent=silent, timeout=0.02 if silent else LONG)
            return [one async for one in observe(agent, [probe], lab.feed, grace=0.005, settle=0.001, caught_up=caught_up)]

    (one,) = asyncio.run(main())
    assert [flow.verdict for flow in one.flows] == [FlowVerdict.DROPPED if silent else FlowVerdict.FORWARDED]


def test_a_source_of_flows_that_is_gone_cannot_be_waited_for(tmp_path: Path):
    async def gone() -> None:
        raise ClusterError("the lab is closed")

    async def main() -> list[Observation]:
        async with a_lab(tmp_path) as lab, asyncio.timeout(30):
            return [one async for one in observe(LoopbackAgent(), [lab.probe()], lab.feed, grace=0.005, settle=0.001, caught_up=gone)]

    (one,) = asyncio.run(main())
    assert (one.result.ending, one.flows) == (Ending.ANSWERED, ())


def test_a_dropped_probe_is_stopped_when_the_grace_is_over(tmp_path: Path):
    (one,) = run(tmp_path, lambda lab: [lab.probe(silent=True)], lambda lab: LoopbackAgent(lab.publishing(dropped)), grace=0.05)
    assert one.result.ending is Ending.STOPPED
    assert [flow.verdict for flow in one.flows] == [FlowVerdict.DROPPED]
    assert 0.05 <= (one.result.ended - one.flows[0].time) / 1e9 < 5


def test_a_drop_on_the_way_to_a_backend_of_the_service_is_the_probes(tmp_path: Path):
    backend = ("10.9.9.9", 9090)

    def to_backend(bound: FiveTuple) -> Flow:
        return dropped(replace(bound, destination=backend[0], destination_port=backend[1]))

    (one,) = run(
        tmp_path, lambda lab: [lab.probe(silent=True, alternatives=(backend,))], lambda lab: LoopbackAgent(lab.publishing(to_backend))
    )
    assert one.result.ending is Ending.STOPPED
    assert one.flows[0].five_tuple.destination == backend[0]


def test_a_drop_that_authentication_may_lift_does_not_stop_the_probe(tmp_path: Path):
    (one,) = run(
        tmp_path,
        lambda lab: [lab.probe()],
        lambda lab: LoopbackAgent(lab.publishing(lambda bound: dropped(bound, 189), forwarded)),
        grace=0,
    )
    assert one.result.ending is Ending.ANSWERED
    assert len(one.flows) == 2


def test_other_peoples_flows_neither_stop_it_nor_are_attached(tmp_path: Path):
    def others(lab: Lab) -> Told:
        return lab.publishing(
            lambda bound: dropped(replace(bound, source="10.1.1.1")),
            lambda bound: dropped(replace(bound, destination_port=1)),
            lambda bound: dropped(bound.reversed()),
            lambda bound: dropped(bound, is_reply=True),
            lambda bound: dropped(bound, time=time.time_ns() - 60 * 10**9),
            lambda bound: dropped(replace(bound, protocol=Protocol.UDP)),
            forwarded,
        )

    (one,) = run(tmp_path, lambda lab: [lab.probe()], lambda lab: LoopbackAgent(others(lab)), grace=0)
    assert one.result.ending is Ending.ANSWERED
    assert [flow.verdict for flow in one.flows] == [FlowVerdict.FORWARDED]


def test_a_flow_that_travels_faster_than_the_news_of_its_socket_is_not_missed(tmp_path: Path):
    async def main() -> Observation:
        async with a_lab(tmp_path) as lab, asyncio.timeout(30):
            seen = asyncio.Event()

            class Late(LoopbackAgent):
                async def run(self, probes: Sequence[Probe]) -> AsyncIterator[AgentEvent]:
                    async for event in super().run(probes):
                        if isinstance(event, Bound):
                            lab.store.publish(dropped(event.five_tuple))
                            while not lab.feed.received:  # noqa: ASYNC110  # the feed raises no event
                                await asyncio.sleep(0)
                        yield event

            seen.set()
            (one,) = [one async for one in observe(Late(), [lab.probe(silent=True)], lab.feed, grace=0, settle=LONG)]
            return one

    one = asyncio.run(main())
    assert one.result.ending is Ending.STOPPED
    assert len(one.flows) == 1


def test_a_drop_that_does_not_name_its_policy_waits_for_the_flow_that_does(tmp_path: Path):
    """An agent tells a drop twice; only the policy verdict names the policy, and it may come later."""
    policy = PolicyRef("CiliumNetworkPolicy", "shop", "deny-client")

    def agent(lab: Lab) -> LoopbackAgent:
        def named(event: AgentEvent) -> None:
            if isinstance(event, ProbeResult):
                assert event.five_tuple
                lab.store.publish(dropped(event.five_tuple, 181, ingress_denied_by=(policy,)))

        return LoopbackAgent(lab.publishing(lambda bound: dropped(bound, 181)), after=named)

    (one,) = run(tmp_path, lambda lab: [lab.probe(silent=True, awaited=frozenset({Direction.INGRESS}))], agent, grace=0)
    assert one.result.ending is Ending.STOPPED
    assert [flow.ingress_denied_by for flow in one.flows] == [(), (policy,)]


@pytest.mark.parametrize(("reason", "awaited"), [(133, frozenset({Direction.INGRESS})), (181, frozenset())])
def test_a_drop_that_has_no_policy_to_name_or_need_not_waits_for_nothing(reason: int, awaited: frozenset[Direction], tmp_path: Path):
    (one,) = run(
        tmp_path,
        lambda lab: [lab.probe(silent=True, awaited=awaited)],
        lambda lab: LoopbackAgent(lab.publishing(lambda bound: dropped(bound, reason))),
        grace=0,
        settle=LONG,
    )
    assert one.result.ending is Ending.STOPPED


def test_a_probe_that_timed_out_settles_for_a_late_drop(tmp_path: Path):
    def agent(lab: Lab) -> LoopbackAgent:
        def after(event: AgentEvent) -> None:
            if isinstance(event, ProbeResult):
                assert event.five_tuple
                lab.store.publish(dropped(event.five_tuple, time=event.started))

        return LoopbackAgent(after=after)

    (one,) = run(tmp_path, lambda lab: [lab.probe(silent=True, timeout=0.02)], agent)
    assert one.result.ending is Ending.TIMEOUT
    assert len(one.flows) == 1


def test_a_refused_probe_settles_and_says_so(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    (one,) = run(tmp_path, lambda lab: [replace(lab.probe(), port=port)], lambda _: LoopbackAgent(), settle=0.02)
    assert (one.result.ending, one.flows) == (Ending.REFUSED, ())


def test_events_lost_in_the_window_are_attached_to_every_probe_under_way(tmp_path: Path):
    def loss(_: FiveTuple) -> LostEvents:
        return LostEvents(3, "PERF_EVENT_RING_BUFFER", time.time_ns(), time.time_ns())

    out = run(
        tmp_path,
        lambda lab: [lab.probe(number, silent=True) for number in range(3)],
        lambda lab: LoopbackAgent(lab.publishing(loss, dropped)),
        grace=0.02,
    )
    assert [one.result.ending for one in out] == [Ending.STOPPED] * 3
    assert all(one.lost for one in out)


def test_events_lost_before_are_not(tmp_path: Path):
    def old(_: FiveTuple) -> LostEvents:
        return LostEvents(3, "PERF_EVENT_RING_BUFFER", 1, 2)

    (one,) = run(tmp_path, lambda lab: [lab.probe(silent=True)], lambda lab: LoopbackAgent(lab.publishing(old, dropped)))
    assert one.lost == ()


def test_a_stream_lost_in_the_window_is_attached(tmp_path: Path):
    async def main() -> Observation:
        async with a_lab(tmp_path) as lab, asyncio.timeout(30):
            closing: list[asyncio.Task[None]] = []

            def tell(event: AgentEvent) -> None:
                if isinstance(event, Bound):
                    closing.append(asyncio.create_task(lab.server.close()))

            agent = LoopbackAgent(tell)
            (one,) = [one async for one in observe(agent, [lab.probe(silent=True, timeout=0.2)], lab.feed, grace=0, settle=0.05)]
            await asyncio.gather(*closing)
            return one

    one = asyncio.run(main())
    assert one.result.ending is Ending.TIMEOUT
    (lost,) = one.lost
    assert lost.source.startswith("stream lost: ")


def test_without_a_feed_nothing_waits_and_the_observation_says_so(tmp_path: Path):
    out = run(tmp_path, lambda lab: [lab.probe(1), lab.probe(2, silent=True, timeout=0.02)], lambda _: LoopbackAgent(), flows=False)
    assert [one.result.ending for one in out] == [Ending.ANSWERED, Ending.TIMEOUT]
    assert not any(one.flows_on for one in out)


def test_a_proof_of_life_has_no_flows_and_waits_for_none(tmp_path: Path):
    (one,) = run(tmp_path, lambda lab: [lab.probe(liveness=True)], lambda lab: LoopbackAgent(lab.publishing(dropped)), grace=0)
    assert (one.result.ending, one.flows) == (Ending.ANSWERED, ())


def test_an_agent_that_breaks_leaves_the_rest_in_error(tmp_path: Path):
    out = run(
        tmp_path,
        lambda lab: [lab.probe(1), lab.probe(2, silent=True)],
        lambda lab: LoopbackAgent(lab.publishing(forwarded), breaks_after=1),
        settle=0.02,
    )
    assert [one.result.ending for one in out] == [Ending.ANSWERED, Ending.ERROR]
    assert "exec ended with code 137" in out[1].result.detail


def test_a_fault_of_an_agent_is_not_taken_for_an_outcome(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        run(
            tmp_path, lambda lab: [lab.probe(1), lab.probe(2)], lambda _: LoopbackAgent(breaks_after=1, error=ZeroDivisionError()), settle=0
        )


def test_an_agent_that_forgets_a_probe_leaves_it_in_error(tmp_path: Path):
    class Forgetful(LoopbackAgent):
        async def run(self, probes: Sequence[Probe]) -> AsyncIterator[AgentEvent]:
            async for event in super().run(probes[:1]):
                yield event

    out = run(tmp_path, lambda lab: [lab.probe(1), lab.probe(2)], lambda lab: Forgetful(lab.publishing(forwarded)))
    assert [one.result.ending for one in out] == [Ending.ANSWERED, Ending.ERROR]
    assert "without a result" in out[1].result.detail


def test_two_probes_with_one_id_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="same id"):
        run(tmp_path, lambda lab: [lab.probe(1), lab.probe(1)], lambda _: LoopbackAgent())


def test_an_empty_plan_is_over_at_once(tmp_path: Path):
    assert run(tmp_path, lambda _: [], lambda _: LoopbackAgent()) == []


def test_whoever_stops_listening_ends_the_agent(tmp_path: Path):
    async def main() -> None:
        async with a_lab(tmp_path) as lab, asyncio.timeout(30):
            agent = LoopbackAgent(lab.publishing(forwarded))
            observations = observe(agent, [lab.probe(1), lab.probe(2, silent=True)], lab.feed, grace=LONG, settle=LONG)
            assert (await anext(observations)).probe.id == 1
            assert agent.running == 1
            await observations.aclose()
            assert agent.running == 0
            assert not lab.feed._registrations

    asyncio.run(main())


def test_hundreds_of_probes_keep_their_own_flows(tmp_path: Path):
    def node(lab: Lab) -> Told:
        def tell(event: AgentEvent) -> None:
            if isinstance(event, Bound):
                make = dropped if event.five_tuple.destination_port == lab.silent else forwarded
                lab.store.publish(make(event.five_tuple, node=f"default/{event.id}"))

        return tell

    out = run(
        tmp_path, lambda lab: [lab.probe(number, silent=number % 2 == 1) for number in range(300)], lambda lab: LoopbackAgent(node(lab))
    )
    assert [one.result.ending for one in out] == [Ending.ANSWERED, Ending.STOPPED] * 150
    assert [[flow.node for flow in one.flows] for one in out] == [[f"default/{number}"] for number in range(300)]
