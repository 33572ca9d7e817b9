"""The follower misses nothing without saying so, over a real socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from msgspec.structs import replace

from harness.errors import FlowsUnavailableError
from harness.hubble import feed as feed_module
from harness.hubble.client import FlowFeed, Observer
from harness.hubble.convert import response_to_proto
from harness.hubble.match import flow_key
from harness.hubble.proto import flow_pb2, observer_pb2, relay_pb2
from harness.hubble.server import FlowStore, serve
from harness.model.flow import FiveTuple, Flow, LostEvents
from harness.model.traffic import Protocol
from tests.hubble.observing import now_flow, observing, until

NOW = 10**18


@asynccontextmanager
async def feeding(folder: Path, **options: Any) -> AsyncIterator[tuple[FlowStore, FlowFeed]]:
    async with observing(folder) as (store, observer):
        feed = FlowFeed(observer, **options)
        await feed.start()
        try:
            yield store, feed
        finally:
            await feed.close()


def into(flows: list[Flow]) -> Callable[[Flow], bool]:
    def receive(flow: Flow) -> bool:
        flows.append(flow)
        return True

    return receive


def test_a_flow_right_after_start_is_not_missed(tmp_path: Path):
    async def run() -> None:
        for number in range(20):
            async with feeding(tmp_path) as (store, feed):
                got: list[Flow] = []
                flow = now_flow(number)
                feed.register(flow_key(flow.five_tuple), into(got))
                store.publish(flow)
                await until(lambda: got)  # noqa: B023  # runs before the next round
                assert got == [flow]

    asyncio.run(run())


def test_a_flow_that_came_before_its_registration_is_handed_over_then(tmp_path: Path):
    async def run() -> None:
        async with feeding(tmp_path) as (store, feed):
            early = now_flow(1)
            store.publish(early)
            await until(lambda: feed.received)
            got: list[Flow] = []
            feed.register(flow_key(early.five_tuple), into(got))
            assert got == [early]

    asyncio.run(run())


def test_each_registration_gets_its_own_flows_only(tmp_path: Path):
    async def run() -> None:
        async with feeding(tmp_path) as (store, feed):
            ping = now_flow(five_tuple=FiveTuple(Protocol.ICMP, "10.0.0.1", 0, "10.0.0.2", 8))
            other_ping = now_flow(five_tuple=FiveTuple(Protocol.ICMP, "10.0.0.1", 0, "10.0.0.3", 8))
            published = [now_flow(1), now_flow(2), ping, other_ping]
            got: list[list[Flow]] = [[] for _ in published]
            for flow, flows in zip(published, got, strict=True):
                feed.register(flow_key(flow.five_tuple), into(flows))
            for flow in published:
                store.publish(flow)
            store.publish(now_flow(3))
            await until(lambda: feed.received == 5)
            assert got == [[flow] for flow in published]

    asyncio.run(run())


def test_a_flow_that_no_registrant_claims_waits_for_the_one_who_will(tmp_path: Path):
    """Two probes may share a source port towards different targets; the second one's first flow may come before its registration."""

    async def run() -> None:
        async with feeding(tmp_path) as (store, feed):
            flow = now_flow(1)
            feed.register(flow_key(flow.five_tuple), lambda _: False)
            store.publish(flow)
            await until(lambda: feed.received)
            got: list[Flow] = []
            feed.register(flow_key(flow.five_tuple), into(got))
            assert got == [flow]

    asyncio.run(run())


def test_after_unregister_nothing_comes(tmp_path: Path):
    async def run() -> None:
        async with feeding(tmp_path) as (store, feed):
            got: list[Flow] = []
            registration = feed.register(flow_key(now_flow(1).five_tuple), into(got))
            feed.unregister(registration)
            feed.unregister(registration)
            store.publish(now_flow(1))
            await until(lambda: feed.received)
            assert got == []

    asyncio.run(run())


def test_the_backlog_is_bounded(tmp_path: Path):
    async def run() -> None:
        async with feeding(tmp_path, backlog=3) as (store, feed):
            for number in (1, 2, 1, 3, 4):
                store.publish(now_flow(number))
            await until(lambda: feed.received == 5)
            got: list[Flow] = []
            for number in range(1, 5):
                feed.register(flow_key(now_flow(number).five_tuple), into(got))
            assert [flow.five_tuple.source_port for flow in got] == [1, 3, 4]

    asyncio.run(run())


def test_lost_events_touch_the_windows_they_overlap(tmp_path: Path):
    async def run() -> None:
        async with feeding(tmp_path) as (store, feed):
            loss = LostEvents(3, "PERF_EVENT_RING_BUFFER", NOW + 10, NOW + 20, "default/a")
            store.publish(loss)
            await until(lambda: feed.lost(0, 2 * NOW))
            assert feed.lost(NOW + 15, NOW + 30) == (loss,)
            assert feed.lost(NOW + 21, NOW + 30) == ()
            assert feed.lost(NOW, NOW + 9) == ()

    asyncio.run(run())


def test_a_loss_that_does_not_say_when_touches_what_is_under_way(tmp_path: Path):
    async def run() -> None:
        async with feeding(tmp_path) as (store, feed):
            started = time.time_ns()
            store.publish(LostEvents(3, "OBSERVER_EVENTS_QUEUE"))
            await until(lambda: feed.lost(started, time.time_ns()))
            assert feed.lost(time.time_ns() + 10**9, time.time_ns() + 10**10) == ()

    asyncio.run(run())


def test_reaching_a_number_of_flows_waits_for_the_last_of_them(tmp_path: Path):
    async def main() -> None:
        async with feeding(tmp_path) as (store, feed):
            await feed.reach(0, within=60)
            store.publish(now_flow(1))
            waiting = asyncio.create_task(feed.reach(2, within=60))
            await feed.reach(1, within=60)
            assert (feed.received, waiting.done()) == (1, False)
            store.publish(now_flow(2))
            await waiting
            assert feed.received == 2

    asyncio.run(main())


def test_flows_that_were_overwritten_are_not_waited_for(tmp_path: Path):
    async def main() -> None:
        async with feeding(tmp_path) as (store, feed):
            before = time.time_ns()
            for number in range(2 * store.capacity):
                store.publish(now_flow(number))
            await feed.reach(store.seen_flows, within=60)
            assert feed.received < store.seen_flows
            assert feed.lost(before, time.time_ns())

    asyncio.run(main())


def test_a_stream_that_ends_is_said_and_the_feed_comes_back(tmp_path: Path):
    async def run() -> None:
        store = FlowStore(64)
        addresses = [f"unix://{tmp_path}/hubble.sock"]
        server = await serve(store, addresses)
        async with await Observer.connect(addresses[0]) as observer:
            feed = FlowFeed(observer, retry=0.01)
            await feed.start()
            assert feed.broken is None
            before = time.time_ns()
            await server.close()
            await until(lambda: feed.broken)
            assert "hubble.sock" in (feed.broken or "")
            (gap,) = feed.lost(before, time.time_ns())
            assert gap.source.startswith("stream lost: ")
            waiting = asyncio.create_task(feed.back(within=30))
            await feed.back(within=0.01)
            assert not waiting.done()
            server = await serve(store, addresses)
            await waiting
            assert feed.broken is None
            await feed.back(within=30, skew=0.05)
            assert feed.lost(time.time_ns() - 50_000_000, time.time_ns()) == ()
            after = time.time_ns()
            assert feed.lost(after, after + 1) == ()
            assert feed.lost(before, after)
            got: list[Flow] = []
            feed.register(flow_key(now_flow(1).five_tuple), into(got))
            store.publish(now_flow(1))
            await until(lambda: got)
            await feed.close()
        await server.close()

    asyncio.run(run())


def test_a_server_that_was_away_for_long_is_found_at_once_when_it_is_back(tmp_path: Path):
    async def run() -> None:
        store = FlowStore(64)
        addresses = [f"unix://{tmp_path}/hubble.sock"]
        server = await serve(store, addresses)
        async with await Observer.connect(addresses[0]) as observer:
            feed = FlowFeed(observer, retry=0.01)
            await feed.start()
            await server.close()
            await feed.back(within=3)  # by itself gRPC would try again after 1, 2.6, 5.2 seconds
            assert feed.broken is not None
            server = await serve(store, addresses)
            began = time.monotonic()
            await feed.back(within=30)
            assert time.monotonic() - began < 1.5
            await feed.close()
        await server.close()

    asyncio.run(run())


def test_closing_the_connection_under_a_feed_is_said_too(tmp_path: Path):
    async def run() -> None:
        async with observing(tmp_path) as (_, observer):
            feed = FlowFeed(observer)
            await feed.start()
            await observer.close()
            await until(lambda: feed.broken)
            assert feed.lost(time.time_ns(), time.time_ns())
            await feed.close()
            await feed.close()

    asyncio.run(run())


def test_a_fault_of_a_receiver_is_not_silent(tmp_path: Path):
    async def run() -> None:
        async with observing(tmp_path) as (store, observer):
            feed = FlowFeed(observer)
            await feed.start()

            def receive(_: Flow) -> bool:
                raise ZeroDivisionError

            feed.register(flow_key(now_flow(1).five_tuple), receive)
            store.publish(now_flow(1))
            await until(lambda: feed.broken)
            assert feed.lost(time.time_ns(), time.time_ns())
            with pytest.raises(ZeroDivisionError):
                await feed.close()

    asyncio.run(run())


def test_a_feed_needs_an_observer_to_start(tmp_path: Path):
    async def run() -> None:
        async with observing(tmp_path) as (_, observer):
            await observer.close()
            with pytest.raises(FlowsUnavailableError):
                await FlowFeed(observer).start(within=0.2)

    asyncio.run(run())


def test_a_whitelist_is_the_servers_business(tmp_path: Path):
    async def run() -> None:
        async with feeding(tmp_path, whitelist=[flow_pb2.FlowFilter(source_port=["2"])]) as (store, feed):
            got: list[Flow] = []
            for number in (1, 2):
                feed.register(flow_key(now_flow(number).five_tuple), into(got))
                store.publish(now_flow(number))
            await until(lambda: got)
            assert feed.received == 1

    asyncio.run(run())


class Plain:
    """An Observer as Cilium's agent is one: it sends no metadata before the first event and knows nothing of batches."""

    def __init__(self, *, refuse: bool = False) -> None:
        self.responses: asyncio.Queue[observer_pb2.GetFlowsResponse] = asyncio.Queue()
        self.requests: list[observer_pb2.GetFlowsRequest] = []
        self._refuse = refuse

    @asynccontextmanager
    async def serving(self, folder: Path) -> AsyncIterator[Observer]:
        async def status(_request: Any, _context: Any) -> observer_pb2.ServerStatusResponse:
            return observer_pb2.ServerStatusResponse(version="plain")

        async def flows(request: observer_pb2.GetFlowsRequest, context: Any) -> None:
            self.requests.append(request)
            if self._refuse:
                await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not for you")
            while True:
                await context.write(await self.responses.get())

        handlers = {
            "ServerStatus": grpc.unary_unary_rpc_method_handler(
                status, observer_pb2.ServerStatusRequest.FromString, observer_pb2.ServerStatusResponse.SerializeToString
            ),
            "GetFlows": grpc.unary_stream_rpc_method_handler(
                flows, observer_pb2.GetFlowsRequest.FromString, observer_pb2.GetFlowsResponse.SerializeToString
            ),
        }
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("observer.Observer", handlers),))
        server.add_insecure_port(f"unix://{folder}/plain.sock")
        await server.start()
        try:
            async with await Observer.connect(f"unix://{folder}/plain.sock") as observer:
                yield observer
        finally:
            await server.stop(0)


def test_a_server_that_says_nothing_at_first_is_asked_for_what_it_had_before_start(tmp_path: Path):
    async def run() -> None:
        plain = Plain()
        async with plain.serving(tmp_path) as observer:
            feed = FlowFeed(observer, margin=10)
            before = time.time_ns()
            await feed.start(within=0.05)
            assert plain.requests[0].since.ToNanoseconds() < before - 9 * 10**9
            got: list[Flow] = []
            feed.register(flow_key(now_flow(1).five_tuple), into(got))
            await plain.responses.put(response_to_proto(now_flow(1)))
            await until(lambda: got)
            await feed.close()

    asyncio.run(run())


class Rings:
    """An Observer with a ring for each node, as Relay is one, that behaves as Cilium's rings do: who asks when a ring has fewer than two
    flows hears nothing of that node (until the ring is full). An agent's own has one ring and says no nodes."""

    def __init__(self, *nodes: str) -> None:
        self.rings: dict[str, list[Flow]] = {node: [] for node in nodes or ("",)}
        self.asked: list[set[str]] = []
        """For each request which nodes are heard in its answer."""
        self._news: list[asyncio.Queue[Flow]] = []
        self._relay = bool(nodes)

    async def publish(self, *flows: Flow) -> None:
        for flow in flows:
            self.rings[flow.node if self._relay else ""].append(flow)
            for news in self._news:
                await news.put(flow)

    async def _status(self, _request: Any, _context: Any) -> observer_pb2.ServerStatusResponse:
        return observer_pb2.ServerStatusResponse(num_flows=sum(map(len, self.rings.values())))

    async def _nodes(self, _request: Any, context: Any) -> observer_pb2.GetNodesResponse:
        if not self._relay:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "GetNodes not implemented")
        nodes = [observer_pb2.Node(name=f"default/{node}", num_flows=len(ring)) for node, ring in self.rings.items()]
        return observer_pb2.GetNodesResponse(nodes=nodes)

    async def _flows(self, request: observer_pb2.GetFlowsRequest, context: Any) -> None:
        heard = {node for node, ring in self.rings.items() if len(ring) >= 2}
        self.asked.append(heard)
        news: asyncio.Queue[Flow] = asyncio.Queue()
        for node in heard:
            for flow in self.rings[node]:
                if flow.time >= request.since.ToNanoseconds():
                    await news.put(flow)
        self._news.append(news)
        while True:
            flow = await news.get()
            if (flow.node if self._relay else "") in heard:
                await context.write(response_to_proto(flow))

    @asynccontextmanager
    async def serving(self, folder: Path) -> AsyncIterator[Observer]:
        messages = observer_pb2
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        handlers = {
            "ServerStatus": unary(self._status, messages.ServerStatusRequest.FromString, messages.ServerStatusResponse.SerializeToString),
            "GetNodes": unary(self._nodes, messages.GetNodesRequest.FromString, messages.GetNodesResponse.SerializeToString),
            "GetFlows": stream(self._flows, messages.GetFlowsRequest.FromString, messages.GetFlowsResponse.SerializeToString),
        }
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("observer.Observer", handlers),))
        server.add_insecure_port(f"unix://{folder}/rings.sock")
        await server.start()
        try:
            async with await Observer.connect(f"unix://{folder}/rings.sock") as observer:
                yield observer
        finally:
            await server.stop(0)


def from_node(node: str, number: int) -> Flow:
    return replace(now_flow(number), node=node)


@pytest.mark.parametrize("nodes", [(), ("a", "b")])
def test_an_observer_that_was_asked_before_it_had_flows_is_asked_again(tmp_path: Path, nodes: tuple[str, ...], monkeypatch):
    monkeypatch.setattr(feed_module, "_LOOK", 0.02)

    async def run() -> None:
        rings = Rings(*nodes)
        async with rings.serving(tmp_path) as observer:
            feed = FlowFeed(observer)
            before = time.time_ns()
            await feed.start(within=0.05)
            flows = [from_node("b", number) for number in (1, 2, 3)]
            got: list[Flow] = []
            for flow in flows:
                feed.register(flow_key(flow.five_tuple), into(got))
            await rings.publish(*flows)
            await until(lambda: len(got) == 3)
            assert got == flows
            assert rings.asked == [set(), set(nodes[1:] or ("",))]
            assert feed.lost(before, time.time_ns()) == ()
            await feed.close()

    asyncio.run(run())


def test_a_node_that_comes_back_with_an_empty_ring_is_asked_again_and_one_that_is_quiet_is_not(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(feed_module, "_LOOK", 0.02)

    async def run() -> None:
        rings = Rings("a", "b")
        old = [replace(from_node("b", number), time=1) for number in (1, 2)]
        await rings.publish(from_node("a", 1), from_node("a", 2), *old)
        async with rings.serving(tmp_path) as observer:
            feed = FlowFeed(observer)
            await feed.start()
            await until(lambda: feed.received == 2)
            await asyncio.sleep(0.2)
            assert len(rings.asked) == 1, "node b has nothing new to say"
            rings.rings["b"].clear()
            rings.asked[0].discard("b")
            for state in (relay_pb2.NODE_UNAVAILABLE, relay_pb2.NODE_CONNECTED):
                feed._nodes(relay_pb2.NodeStatusEvent(state_change=state, node_names=["b"]))  # type: ignore[arg-type]
            await rings.publish(from_node("b", 3), from_node("b", 4))
            got: list[Flow] = []
            feed.register(flow_key(now_flow(4).five_tuple), into(got))
            await until(lambda: got)
            assert len(rings.asked) == 2
            await feed.close()

    asyncio.run(run())


def test_a_stream_refused_at_once_fails_the_start(tmp_path: Path):
    async def run() -> None:
        async with Plain(refuse=True).serving(tmp_path) as observer:
            with pytest.raises(FlowsUnavailableError, match="not for you"):
                await FlowFeed(observer).start()

    asyncio.run(run())


def test_a_node_that_relay_cannot_reach_is_a_loss_while_it_lasts(tmp_path: Path):
    async def run() -> None:
        plain = Plain()

        def news(state: int) -> observer_pb2.GetFlowsResponse:
            status = relay_pb2.NodeStatusEvent(state_change=state, node_names=["default/b"], message="timed out")  # type: ignore[arg-type]
            return observer_pb2.GetFlowsResponse(node_status=status)

        async with plain.serving(tmp_path) as observer:
            feed = FlowFeed(observer)
            await plain.responses.put(news(relay_pb2.NODE_CONNECTED))
            await feed.start()
            assert feed.lost(0, time.time_ns()) == ()
            await plain.responses.put(news(relay_pb2.NODE_UNAVAILABLE))
            await until(lambda: feed.lost(0, time.time_ns()))
            (loss,) = feed.lost(time.time_ns(), time.time_ns())
            assert (loss.node, loss.source) == ("default/b", "node unavailable: timed out")
            await plain.responses.put(news(relay_pb2.NODE_CONNECTED))
            await until(lambda: not feed.lost(time.time_ns(), time.time_ns()))
            assert feed.lost(0, time.time_ns()), "the time in between stays lost"
            await feed.close()

    asyncio.run(run())
