"""Batches are for those who ask, and change nothing but the number of messages."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from harness.hubble.batch import LIMIT, ask, limit, pack, unpack
from harness.hubble.client import FlowFeed
from harness.hubble.convert import event_of, response_to_proto
from harness.hubble.match import flow_key
from harness.hubble.proto import observer_pb2
from harness.model.flow import Flow, LostEvents
from tests.hubble.flow_strategies import LOSSES, flows, quick
from tests.hubble.observing import make_flow, now_flow, observing, until


@quick
@given(st.lists(st.one_of(flows(), LOSSES), min_size=1, max_size=8))
def test_what_is_packed_is_unpacked_in_order(events: list[Flow | LostEvents]):
    data = pack([response_to_proto(event).SerializeToString() for event in events])
    assert [event_of(one) for one in unpack(observer_pb2.GetFlowsResponse.FromString(data))] == events


def responses(folder: Path, request: observer_pb2.GetFlowsRequest, count: int) -> list[observer_pb2.GetFlowsResponse]:
    async def run() -> list[observer_pb2.GetFlowsResponse]:
        async with observing(folder) as (store, observer):
            for number in range(count):
                store.publish(make_flow(number))
            return [one async for one in observer.stream(request)]

    return asyncio.run(run())


def test_whoever_does_not_ask_gets_one_flow_a_message(tmp_path: Path):
    got = responses(tmp_path, observer_pb2.GetFlowsRequest(), 50)
    assert len(got) == 50
    assert not any(one.more for one in got)


def test_another_extension_is_not_taken_for_ours(tmp_path: Path):
    request = observer_pb2.GetFlowsRequest()
    request.extensions.type_url = "type.googleapis.com/somebody.else"
    request.extensions.value = b"\x08\x05"
    assert limit(request) == 1
    assert len(responses(tmp_path, request, 5)) == 5


def test_whoever_asks_gets_what_has_gathered_in_one(tmp_path: Path):
    request = observer_pb2.GetFlowsRequest()
    ask(request)
    got = responses(tmp_path, request, LIMIT + 10)
    assert [1 + len(one.more) for one in got] == [LIMIT, 10]
    assert [one.flow.l4.TCP.source_port for whole in got for one in unpack(whole)] == list(range(LIMIT + 10))


def test_a_flow_alone_is_sent_at_once(tmp_path: Path):
    async def run() -> None:
        async with observing(tmp_path) as (store, observer):
            feed = FlowFeed(observer)
            await feed.start()
            for number in range(5):
                got: list[Flow] = []
                flow = now_flow(number)
                feed.register(flow_key(flow.five_tuple), lambda one, got=got: not got.append(one))
                store.publish(flow)
                await until(lambda got=got: got, within=5)
            await feed.close()

    asyncio.run(run())
