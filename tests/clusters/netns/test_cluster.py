"""The lab's side that everybody sees: capabilities, the Observer's address, nodes beyond two, and what a machine must allow."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from harness.clusters.netns import machine, nftables
from harness.clusters.netns.cluster import LabOptions, NetnsCluster
from harness.errors import ClusterError, LabUnavailableError
from harness.hubble.client import Observer
from harness.model.flow import Flow
from harness.model.probe import Ending
from tests.clusters.netns.conftest import Bench, drops, require_lab

FEATURES = {
    "l7-http", "l7-dns", "fqdn", "tls-sni", "auth", "spire", "audit", "icmp", "sctp", "ipv6", "services", "to-services", "cidr-group",
    "host-firewall", "host-endpoints", "externals", "nodes-2", "wireguard", "ipsec", "kube-proxy-replacement", "clustermesh",
}  # fmt: skip
THREE_NODES = """
endpoints:
  client: {labels: {app: client}, node: c}
  server: {labels: {app: server}, node: a, ports: [8080]}
"""


def test_every_feature_is_there_or_lacking_for_a_reason(started_lab: NetnsCluster) -> None:
    capabilities = started_lab.capabilities
    assert capabilities.features | set(capabilities.lacking) >= FEATURES
    assert not capabilities.features & set(capabilities.lacking)
    assert all(capabilities.lacking.values())
    assert not started_lab.simulated


def test_any_hubble_client_reads_the_flows(bench: Bench) -> None:
    bench.deploy(THREE_NODES)
    bench.apply("shut: {endpointSelector: {matchLabels: {app: server}}, ingress: [{}]}")
    (drop,) = drops(bench.try_("client", "server"))

    async def read() -> list[Flow]:
        target = bench.cluster.flows()
        assert target is not None
        async with await Observer.connect(target) as observer:
            return [event async for event in observer.flows(number=100) if isinstance(event, Flow)]

    assert drop.uuid in {flow.uuid for flow in asyncio.run(read())}
    assert drop.source.labels == (
        "k8s:app=client",
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=default",
        "k8s:io.cilium.k8s.policy.cluster=default",
        "k8s:io.kubernetes.pod.namespace=default",
    )
    assert (drop.source.namespace, drop.source.pod, drop.source.cluster) == ("default", "client", "default")
    assert drop.tcp_flags == ("SYN",)


def test_more_nodes_are_made_when_a_case_names_them(bench: Bench) -> None:
    bench.deploy(THREE_NODES)
    seen = bench.try_("client", "server")
    assert seen.result.ending is Ending.ANSWERED
    assert {flow.node for flow in seen.flows} == {"node-a", "node-c"}


def test_a_pool_that_is_too_small_grows(bench: Bench) -> None:
    bench.deploy("endpoints: {many: {labels: {app: many}, replicas: 24, ports: [8080]}, one: {labels: {app: one}}}")
    seen = bench.send(*(bench.probe("one", f"many-{index}") for index in range(24)))
    assert [each.result.server for each in seen] == [f"default/many-{index}" for index in range(24)]


def test_flows_are_served_on_the_machines_own_network_where_that_is_asked_for() -> None:
    require_lab()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    cluster = NetnsCluster(LabOptions(pods=1, hubble_listen=address))

    async def nodes() -> tuple[str, ...]:
        async with await Observer.connect(address) as observer:
            return await observer.nodes()

    try:
        assert set(asyncio.run(nodes())) == {"default/node-a", "default/node-b"}
    finally:
        cluster.close()


def test_an_address_that_is_taken_is_an_error_and_leaves_no_lab() -> None:
    require_lab()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ClusterError, match="flows cannot be served on"):
            NetnsCluster(LabOptions(pods=1, hubble_listen=f"127.0.0.1:{taken.getsockname()[1]}"))


def test_without_flows_probes_are_sent_all_the_same(tmp_path: Path) -> None:
    require_lab()
    cluster = NetnsCluster(LabOptions(pods=1, flows=False))
    try:
        assert cluster.flows() is None
        bench = Bench(cluster, tmp_path)
        bench.deploy(THREE_NODES)
        seen = bench.try_("client", "server")
        assert (seen.result.ending, seen.flows, seen.flows_on) == (Ending.ANSWERED, (), False)
    finally:
        cluster.close()


def test_a_machine_without_user_namespaces_is_told_what_to_enable_or_to_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switch = tmp_path / "restrict"
    switch.write_text("1\n")
    monkeypatch.setattr(machine, "_USER_NAMESPACES", {str(switch): ("1", "sysctl -w kernel.restrict=0")})
    error = machine.forbidden("unshare: Operation not permitted")
    assert isinstance(error, LabUnavailableError)
    assert "Operation not permitted" in error.message
    assert error.hint is not None
    assert "`sysctl -w kernel.restrict=0`" in error.hint
    assert "--cluster=memory" in error.hint
    switch.write_text("0\n")
    hint = machine.forbidden("x").hint
    assert hint is not None
    assert "kernel.restrict" not in hint


def test_a_machine_without_nftables_is_told_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    nftables.library.cache_clear()
    monkeypatch.setattr(nftables, "_SONAME", "libnftables-not-there.so.1")
    try:
        with pytest.raises(LabUnavailableError, match="cannot be loaded") as raised:
            NetnsCluster(LabOptions(pods=1))
        assert raised.value.hint is not None
        assert "apt-get install nftables" in raised.value.hint
        machine.probe_capabilities.cache_clear()
        assert not machine.probe_capabilities().usable
    finally:
        nftables.library.cache_clear()
        machine.probe_capabilities.cache_clear()
