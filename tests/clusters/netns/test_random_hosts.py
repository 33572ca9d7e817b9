"""The kernel against the model, for hosts: a seeded sample of random policies of nodes and pods, every pair of ends, real packets."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import yaml

from harness.model.flow import DropReason
from harness.model.probe import Ending
from harness.model.traffic import Direction, External, Peer, PodRef, Protocol, Traffic
from harness.model.verdict import Decision, Verdict
from harness.policy.evaluate import Evaluator
from harness.policy.options import Options
from harness.policy.repository import Repository
from tests.clusters.netns.conftest import Bench, drops

DEPLOYED = """
endpoints:
  pod-a: {labels: {app: one}, node: a, ports: [8080, {port: 9000, protocol: UDP, serve: echo}]}
  pod-b: {labels: {app: two}, node: b, ports: [8080, {port: 9000, protocol: UDP, serve: echo}]}
  host-a: {hostNetwork: true, node: a, ports: [8080, {port: 9000, protocol: UDP, serve: echo}]}
  host-b: {hostNetwork: true, node: b, ports: [8080, {port: 9000, protocol: UDP, serve: echo}]}
externals:
  outside: {addresses: [198.51.100.7], ports: [8080, {port: 9000, protocol: UDP, serve: echo}]}
"""
OUTSIDE = "198.51.100.7"
ENDS = ("pod-a", "pod-b", "host-a", "host-b", "outside")
PORTS = ((8080, Protocol.TCP), (9000, Protocol.UDP))
REASONS = {Decision.DEFAULT_DENY: DropReason.POLICY_DENIED, Decision.DENY_RULE: DropReason.POLICY_DENY}
ENTITIES = ("all", "cluster", "world", "host", "remote-node")


def random_policy(chance: random.Random, name: str) -> dict[str, Any]:
    def rule(way: str) -> dict[str, Any]:
        peers = chance.choice([
            {f"{way}Endpoints": [chance.choice([{}, {"matchLabels": {"any:app": chance.choice(["one", "two"])}}])]},
            {f"{way}Entities": [chance.choice(ENTITIES)]},
            {f"{way}CIDR": [chance.choice(["0.0.0.0/0", "198.51.100.0/24"])]},
            {},
        ])
        port = chance.choice([{"port": "8080"}, {"port": "9000", "protocol": "UDP"}, {"port": "8000", "endPort": 9100}])
        return {**peers, **({"toPorts": [{"ports": [port]}]} if chance.random() < 0.5 or not peers else {})}

    spec: dict[str, Any] = chance.choice([{"nodeSelector": {}}, {"nodeSelector": {}}, {"endpointSelector": {}}])
    keys = [("ingress", "from", 0.6), ("egress", "to", 0.6), ("ingressDeny", "from", 0.3), ("egressDeny", "to", 0.3)]
    rules = {key: [rule(way) for _ in range(chance.randint(1, 2))] for key, way, often in keys if chance.random() < often}
    metadata = {"name": name}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": metadata,
        "spec": {**spec, **(rules or {"ingress": [rule("from")]})},
    }


def peer(name: str) -> Peer:
    return External(OUTSIDE) if name == "outside" else PodRef("default", name)


@pytest.mark.parametrize("seed", range(8))
def test_packets_of_hosts_go_where_the_evaluator_says(bench: Bench, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 -- a sample, and the same one each time
    placement = bench.deploy(DEPLOYED)
    documents = [random_policy(chance, f"policy-{number}") for number in range(chance.randint(1, 3))]
    bench.apply(yaml.safe_dump_all(documents))
    evaluator = Evaluator(placement.state, Repository.empty(Options(host_firewall=True)).change([], documents))
    pairs = [pair for pair in itertools.permutations(ENDS, 2) for _ in PORTS]
    probes = [
        bench.probe(
            f"world:{OUTSIDE}" if source == "outside" else source,
            "external:outside" if target == "outside" else target,
            port,
            protocol,
            serve="echo" if protocol is Protocol.UDP else "auto",
            timeout=5.0,
        )
        for (source, target), (port, protocol) in zip(pairs, itertools.cycle(PORTS), strict=False)
    ]
    for (source, target), probe, seen in zip(pairs, probes, bench.send(*probes), strict=True):
        said = evaluator.verdict(Traffic(peer(source), peer(target), probe.protocol, probe.port))
        what = f"{source} -> {target}:{probe.port}/{probe.protocol}: {said} but {seen}"
        assert (seen.result.ending is Ending.ANSWERED) == (said.verdict is Verdict.ALLOW), what
        if said.dropped_at is not None:
            side = said.ingress if said.dropped_at is Direction.INGRESS else said.egress
            assert [(drop.direction, drop.drop_reason) for drop in drops(seen)] == [(said.dropped_at, REASONS[side.decision])], what
