"""How probes end: early, refused, silent; what proves life; what happens when the lab is made to lie."""

from __future__ import annotations

import subprocess

import pytest

from harness.model.flow import EventType
from harness.model.probe import Ending
from harness.model.traffic import Direction, Protocol
from tests.clusters.netns.conftest import Bench, drops

PAIR = """
endpoints:
  client: {labels: {app: client}, node: a}
  server: {labels: {app: server}, node: b, ports: [8080, 8081, {port: 53, protocol: UDP, serve: echo}]}
"""
SHUT = "shut: {endpointSelector: {matchLabels: {app: server}}, ingress: [{}]}"


def test_a_dropped_probe_ends_long_before_its_time_out(bench: Bench) -> None:
    bench.deploy(PAIR)
    bench.apply(SHUT)
    seen = bench.try_("client", "server", timeout=30.0)
    assert seen.result.ending is Ending.STOPPED
    assert seen.result.seconds < 5.0
    assert drops(seen)


def test_life_is_proven_over_loopback_whatever_the_policy(bench: Bench) -> None:
    bench.deploy(PAIR)
    bench.apply("shut: {endpointSelector: {}, ingress: [{}], egress: [{}]}")
    tcp, udp = bench.send(
        bench.probe("server", "server", liveness=True), bench.probe("server", "server", 53, Protocol.UDP, serve="echo", liveness=True)
    )
    assert (tcp.result.ending, tcp.result.server) == (Ending.ANSWERED, "default/server")
    assert (udp.result.ending, udp.result.server) == (Ending.ANSWERED, "default/server")


def test_a_closed_port_refuses_and_the_flows_show_that_policy_let_it_pass(bench: Bench) -> None:
    bench.deploy(PAIR)
    tcp, udp = bench.send(bench.probe("client", "server", 4444), bench.probe("client", "server", 4444, Protocol.UDP, serve="echo"))
    assert [tcp.result.ending, udp.result.ending] == [Ending.REFUSED, Ending.REFUSED]
    assert any(flow.direction is Direction.INGRESS and flow.forwarded for flow in tcp.flows)


def test_a_killed_server_is_neither_alive_nor_reached(bench: Bench) -> None:
    bench.deploy(PAIR)
    assert bench.cluster.fault("close", "default/server") > 0
    life, probe = bench.send(bench.probe("server", "server", liveness=True), bench.probe("client", "server"))
    assert [life.result.ending, probe.result.ending] == [Ending.REFUSED, Ending.REFUSED]


def test_a_closed_port_leaves_the_others_open(bench: Bench) -> None:
    bench.deploy(PAIR)
    bench.cluster.fault("close", "default/server", 8080)
    closed, open_ = bench.send(bench.probe("client", "server", 8080), bench.probe("client", "server", 8081))
    assert [closed.result.ending, open_.result.ending] == [Ending.REFUSED, Ending.ANSWERED]


def test_without_its_flow_events_a_dropped_probe_just_times_out(bench: Bench) -> None:
    bench.deploy(PAIR)
    bench.apply(SHUT)
    bench.cluster.fault("discard_flows", 8080)
    hidden, told = bench.send(bench.probe("client", "server", 8080, timeout=0.1), bench.probe("client", "server", 8081, timeout=5.0))
    assert (hidden.result.ending, hidden.flows) == (Ending.TIMEOUT, ())
    assert told.result.ending is Ending.STOPPED


def test_lost_events_are_attached_to_the_probes_they_touch(bench: Bench) -> None:
    bench.deploy(PAIR)
    bench.apply(SHUT)
    bench.cluster.fault("discard_flows", 8080)
    running = bench.cluster.probe([bench.probe("client", "server", timeout=0.3), bench.probe("client", "server", 8081)])
    first = next(running)  # the one that is told; the other is still under way
    bench.cluster.fault("lose_events", 1)
    (second,) = running
    assert not first.lost
    assert second.lost


def test_an_unknown_site_is_an_error_of_its_probe_alone(bench: Bench) -> None:
    bench.deploy(PAIR)
    lost, good = bench.send(bench.probe("nobody", "server"), bench.probe("client", "server"))
    assert lost.result.ending is Ending.ERROR
    assert "default/nobody" in lost.result.detail
    assert good.result.ending is Ending.ANSWERED


def test_source_ports_never_come_twice(bench: Bench) -> None:
    bench.deploy(PAIR)
    seen = [
        five
        for _ in range(3)
        for each in bench.send(*(bench.probe("client", "server") for _ in range(50)))
        if (five := each.result.five_tuple)
    ]
    assert len({five.source_port for five in seen}) == len(seen) == 150


def test_a_thousand_probes_at_once_are_all_answered_and_each_has_its_flow(bench: Bench) -> None:
    bench.deploy(PAIR)
    seen = bench.send(*(bench.probe("client", "server", timeout=10.0) for _ in range(1000)))
    assert {each.result.ending for each in seen} == {Ending.ANSWERED}
    assert all(any(flow.event_type == EventType.TRACE and flow.direction is Direction.INGRESS for flow in each.flows) for each in seen)
    assert bench.cluster.counters()["lost"] == 0


HICCUPS = 'n=0; while [ $n -lt 6 ]; do n=$((n+1)); kill -STOP "$0"; sleep 0.15; kill -CONT "$0"; sleep 0.02; done'
"""A machine so busy that it leaves the lab alone for longer than a probe may take and its flows to settle, again and again."""


@pytest.mark.parametrize("shut", [False, True])
def test_a_busy_machine_neither_times_a_probe_out_nor_takes_its_flows(bench: Bench, shut: bool) -> None:
    bench.deploy(PAIR)
    if shut:
        bench.apply(SHUT)
    probes = [bench.probe("client", "server", timeout=0.1) for _ in range(1000)]
    with subprocess.Popen(["sh", "-c", HICCUPS, str(bench.cluster.pid)]):
        seen = bench.send(*probes)
    if shut:
        assert {each.result.ending for each in seen} <= {Ending.STOPPED, Ending.TIMEOUT}
        assert all(any(flow.dropped for flow in each.flows) for each in seen)
    else:
        assert {each.result.ending for each in seen} == {Ending.ANSWERED}
        assert all(any(flow.direction is Direction.INGRESS and flow.forwarded for flow in each.flows) for each in seen)


@pytest.mark.parametrize("number", [1, 2])
def test_a_reader_who_stops_early_leaves_nothing_under_way(bench: Bench, number: int) -> None:
    bench.deploy(PAIR)
    bench.apply(SHUT)
    bench.cluster.fault("discard_flows", 8080)
    plan = [bench.probe("client", "server", 8081) for _ in range(number)] + [bench.probe("client", "server", 8080, timeout=60.0)]
    running = bench.cluster.probe(plan)
    for _ in range(number):
        next(running)
    running.close()
    bench.apply(remove=[])
    assert bench.try_("server", "server", liveness=True).result.ending is Ending.ANSWERED
