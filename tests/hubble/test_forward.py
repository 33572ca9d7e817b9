"""A TCP address for an Observer on a unix socket."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from harness.errors import ClusterError, FlowsUnavailableError
from harness.hubble.client import FlowFeed, Observer
from harness.hubble.forward import forward
from harness.hubble.match import flow_key
from harness.model.flow import Flow
from tests.hubble.observing import make_flow, now_flow, serving, until


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0"])
def test_flows_come_through(tmp_path: Path, listen: str):
    if listen.startswith("["):
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6 loopback; `sysctl net.ipv6.conf.lo.disable_ipv6=0` enables it")

    async def run() -> None:
        async with serving(tmp_path) as (store, _):
            forwarder = await forward(listen, f"{tmp_path}/hubble.sock")
            big = make_flow(1, policy_log=("x" * 200_000,))
            store.publish(big)
            async with await Observer.connect(forwarder.address) as observer:
                assert [flow async for flow in observer.flows()] == [big]
                feed = FlowFeed(observer)
                await feed.start()
                got: list[Flow] = []
                feed.register(flow_key(now_flow(2).five_tuple), lambda flow: not got.append(flow))
                store.publish(now_flow(2))
                await until(lambda: got)
                await forwarder.close()
                await until(lambda: feed.broken)
                await feed.close()
            await forwarder.close()

    asyncio.run(run())


def test_without_an_observer_behind_it_nothing_answers(tmp_path: Path):
    async def run() -> None:
        forwarder = await forward("127.0.0.1:0", f"{tmp_path}/hubble.sock")
        with pytest.raises(FlowsUnavailableError):
            await Observer.connect(forwarder.address, within=0.2)
        await forwarder.close()

    asyncio.run(run())


@pytest.mark.parametrize("listen", ["127.0.0.1:http", "203.0.113.77:0"])
def test_an_address_that_cannot_be_had_is_one_clear_error(tmp_path: Path, listen: str):
    with pytest.raises(ClusterError, match="cannot be served on") as raised:
        asyncio.run(forward(listen, f"{tmp_path}/hubble.sock"))
    assert "--hubble-listen" in (raised.value.hint or "")
