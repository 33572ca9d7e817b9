"""The Observer answers as Cilium's, over a real socket."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from harness.errors import ClusterError, FlowsUnavailableError
from harness.hubble.client import Observer
from harness.hubble.proto import flow_pb2, observer_pb2
from harness.hubble.server import FlowStore, serve
from harness.model.flow import Flow, FlowVerdict, LostEvents
from tests.hubble.observing import make_flow, observing, serving, until


async def ports(observer: Observer, **request: Any) -> list[int]:
    """The source ports of the answer, which tests use to name flows; -1 for lost events."""
    return [event.five_tuple.source_port if isinstance(event, Flow) else -1 async for event in observer.flows(**request)]


def ask(folder: Path, *, capacity: int = 1024, publish: int = 10, **request: Any) -> list[int]:
    """Flows 0 to `publish` - 1 at times 100, 200, ...; then the ports that the request gets."""

    async def run() -> list[int]:
        async with observing(folder, capacity) as (store, observer):
            for number in range(publish):
                store.publish(make_flow(number, time=(number + 1) * 100))
            return await ports(observer, **request)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, list(range(10))),
        ({"number": 3}, [7, 8, 9]),
        ({"number": 100}, list(range(10))),
        ({"number": 3, "first": True}, [0, 1, 2]),
        ({"first": True}, list(range(10))),
        ({"since": 500}, [4, 5, 6, 7, 8, 9]),
        ({"since": 501}, [5, 6, 7, 8, 9]),
        ({"until": 300}, [0, 1, 2]),
        ({"until": 299}, [0, 1]),
        ({"since": 300, "until": 500}, [2, 3, 4]),
        ({"since": 300, "number": 2}, [2, 3]),  # since wins, then as many as asked for
        ({"since": 300, "number": 2, "first": True}, [2, 3]),
        ({"until": 800, "number": 4}, [6, 7]),  # the last four, cut at until
        ({"until": 300, "number": 2, "first": True}, [0, 1]),
        ({"since": 5000}, []),
    ],
)
def test_since_until_number_and_first_choose_as_ciliums_observer(tmp_path: Path, request_: dict[str, Any], expected: list[int]):
    assert ask(tmp_path, **request_) == expected


def test_only_what_the_ring_still_holds_is_told(tmp_path: Path):
    assert ask(tmp_path, capacity=4) == [6, 7, 8, 9]
    assert ask(tmp_path, capacity=4, number=2, first=True) == [6, 7]
    assert ask(tmp_path, capacity=4, publish=3) == [0, 1, 2]


def test_number_counts_what_the_filters_let_through(tmp_path: Path):
    odd = [flow_pb2.FlowFilter(source_port=["1", "3", "5", "7"])]
    assert ask(tmp_path, number=2, whitelist=odd) == [5, 7]
    assert ask(tmp_path, number=2, first=True, whitelist=odd) == [1, 3]
    assert ask(tmp_path, number=2, blacklist=odd) == [8, 9]
    assert ask(tmp_path, whitelist=odd, blacklist=[flow_pb2.FlowFilter(source_port=["3"])]) == [1, 5, 7]


def test_lost_events_are_told_whatever_the_filter_and_are_not_counted(tmp_path: Path):
    async def run() -> list[int]:
        async with observing(tmp_path) as (store, observer):
            store.publish(make_flow(1))
            store.publish(LostEvents(7, "PERF_EVENT_RING_BUFFER", 1, 2))
            store.publish(make_flow(2))
            return await ports(observer, number=2, whitelist=[flow_pb2.FlowFilter(source_port=["1", "2"])])

    assert asyncio.run(run()) == [1, -1, 2]


def test_following_goes_on_with_what_comes(tmp_path: Path):
    async def run() -> list[int]:
        got: list[int] = []
        async with observing(tmp_path) as (store, observer):
            store.publish(make_flow(1))
            store.publish(make_flow(2))

            async def follow() -> None:
                async for event in observer.flows(follow=True, number=1):
                    assert isinstance(event, Flow)
                    got.append(event.five_tuple.source_port)

            task = asyncio.create_task(follow())
            await until(lambda: got == [2])
            store.publish(make_flow(3))
            await until(lambda: len(got) == 2)
            store.publish(make_flow(4))
            await until(lambda: len(got) == 3)
            task.cancel()
        return got

    assert asyncio.run(run()) == [2, 3, 4]


def test_following_ends_at_until(tmp_path: Path):
    async def run() -> list[int]:
        async with observing(tmp_path) as (store, observer):
            for number in range(5):
                store.publish(make_flow(number, time=(number + 1) * 100))
            return await ports(observer, follow=True, since=100, until=300)

    assert asyncio.run(run()) == [0, 1, 2]


def test_a_follower_from_now_on_gets_nothing_old(tmp_path: Path):
    async def run() -> list[int]:
        async with observing(tmp_path) as (store, observer):
            store.publish(make_flow(1))
            request = observer_pb2.GetFlowsRequest(follow=True)
            call = observer.stream(request)
            await call.initial_metadata()  # the server has subscribed us
            store.publish(make_flow(2))
            response = await call.read()
            call.cancel()
            return [response.flow.l4.TCP.source_port]

    assert asyncio.run(run()) == [2]


def test_first_cannot_be_followed(tmp_path: Path):
    with pytest.raises(FlowsUnavailableError, match="first cannot be specified with follow"):
        ask(tmp_path, first=True, follow=True)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"whitelist": [flow_pb2.FlowFilter(source_ip=["nonsense"])]}, "invalid IP address"),
        ({"blacklist": [flow_pb2.FlowFilter(protocol=["nonsense"])]}, "unknown protocol"),
        ({"field_mask": ["nonsense"]}, "invalid field mask"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_with_the_reason(tmp_path: Path, request_: dict[str, Any], message: str):
    with pytest.raises(FlowsUnavailableError, match=message):
        ask(tmp_path, **request_)


def test_a_slow_follower_is_told_how_much_it_lost(tmp_path: Path):
    """Each flow is either delivered, in order, or counted as lost."""
    total, big = 3000, "x" * 20_000

    async def run() -> tuple[list[int], list[LostEvents]]:
        got: list[int] = []
        lost: list[LostEvents] = []
        async with observing(tmp_path, capacity=64) as (store, observer):
            call = observer.stream(observer_pb2.GetFlowsRequest(follow=True))
            await call.initial_metadata()
            # Nobody reads: the transport fills up, then the ring turns over.
            for number in range(total):
                store.publish(make_flow(number, policy_log=(big,)))
                await asyncio.sleep(0)
            while len(got) + sum(one.count for one in lost) < total:
                response = await asyncio.wait_for(call.read(), 10)
                if response.HasField("flow"):
                    got.append(response.flow.l4.TCP.source_port)
                else:
                    event = response.lost_events
                    assert event.source == flow_pb2.HUBBLE_RING_BUFFER
                    lost.append(LostEvents(event.num_events_lost, "", event.first.ToNanoseconds(), event.last.ToNanoseconds()))
            call.cancel()
        return got, lost

    got, lost = asyncio.run(run())
    assert lost
    assert got == sorted(got)
    assert got[-1] == total - 1
    assert len(got) + sum(one.count for one in lost) == total
    assert all(one.first < one.last for one in lost)


def test_a_masked_flow_has_only_what_was_asked_for(tmp_path: Path):
    async def run() -> tuple[observer_pb2.GetFlowsResponse, observer_pb2.GetFlowsResponse]:
        async with observing(tmp_path) as (store, observer):
            store.publish(make_flow(1, node="default/a"))
            narrow = observer_pb2.GetFlowsRequest()
            narrow.field_mask.paths.extend(["source.pod_name", "verdict"])
            wide = observer_pb2.GetFlowsRequest()
            wide.field_mask.paths.extend(["node_name", "time"])
            return await observer.stream(narrow).read(), await observer.stream(wide).read()

    narrow, wide = asyncio.run(run())
    assert narrow.flow == flow_pb2.Flow(verdict=flow_pb2.FORWARDED, source=flow_pb2.Endpoint(pod_name="web"))
    assert not narrow.node_name
    assert wide.node_name == "default/a"
    assert wide.time.ToNanoseconds() > 0


def test_status_nodes_and_namespaces(tmp_path: Path):
    async def run() -> None:
        async with observing(tmp_path, 4, nodes=["a", "b"], namespaces=lambda: ["empty"], version="1.2.3") as (store, observer):
            for number in range(6):
                store.publish(make_flow(number, time=time.time_ns()))
            store.publish(LostEvents(1))
            status = await observer.status()
            assert (status.num_flows, status.max_flows, status.seen_flows, status.version) == (4, 4, 6, "1.2.3")
            assert (status.connected_nodes, status.unavailable_nodes) == (2, 0)
            assert status.flows_rate > 0
            assert await observer.nodes() == ("default/a", "default/b")
            assert await observer.namespaces() == ("empty", "shop")

    asyncio.run(run())


@pytest.mark.parametrize("method", ["GetAgentEvents", "GetDebugEvents"])
def test_events_that_do_not_exist_here_are_unimplemented(tmp_path: Path, method: str):
    async def run() -> grpc.StatusCode:
        async with serving(tmp_path) as (_, server), grpc.aio.insecure_channel(server.addresses[0]) as channel:
            call = channel.unary_stream(f"/observer.Observer/{method}")(b"")
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call.read()
            return raised.value.code()

    assert asyncio.run(run()) is grpc.StatusCode.UNIMPLEMENTED


def test_it_listens_on_tcp_as_well_and_says_which_port_it_got(tmp_path: Path):
    async def run() -> list[int]:
        store = FlowStore(8)
        server = await serve(store, [f"unix://{tmp_path}/hubble.sock", "127.0.0.1:0"])
        store.publish(make_flow(5))
        try:
            assert not server.addresses[1].endswith(":0")
            async with await Observer.connect(server.addresses[1]) as observer:
                return await ports(observer)
        finally:
            await server.close()

    assert asyncio.run(run()) == [5]


def test_an_address_in_use_is_one_clear_error():
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(ClusterError, match=address):
                await serve(FlowStore(8), [address])

    asyncio.run(run())


def test_a_socket_left_by_a_killed_process_is_replaced_and_ours_is_gone_after_close(tmp_path: Path):
    path = tmp_path / "hubble.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert ask(tmp_path, publish=1) == [0]
    assert not path.exists()


def test_nobody_there_is_one_clear_error(tmp_path: Path):
    async def run() -> None:
        with pytest.raises(FlowsUnavailableError, match=r"hubble\.sock.*") as raised:
            await Observer.connect(f"unix://{tmp_path}/hubble.sock", within=0.2)
        assert "--hubble=off" in (raised.value.hint or "")

    asyncio.run(run())


def test_another_grpc_service_is_told_from_an_observer():
    async def run() -> None:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            with pytest.raises(FlowsUnavailableError, match="UNIMPLEMENTED") as raised:
                await Observer.connect(f"127.0.0.1:{port}")
            assert "no Hubble Observer" in (raised.value.hint or "")
        finally:
            await server.stop(0)

    asyncio.run(run())


def test_verdicts_that_we_do_not_know_are_unknown_not_an_error(tmp_path: Path):
    async def run() -> FlowVerdict:
        async with observing(tmp_path) as (store, observer):
            store.publish(make_flow(1))
            entry = store.at(0)
            entry.message.verdict = 99  # type: ignore[assignment]  # as a newer Cilium might send
            async for event in observer.flows(field_mask=["verdict", "IP", "l4"]):
                assert isinstance(event, Flow)
                return event.verdict
            raise AssertionError

    assert asyncio.run(run()) is FlowVerdict.VERDICT_UNKNOWN
