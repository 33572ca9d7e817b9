"""The kernel against the model: a seeded sample of random policies, every pair of pods, real packets."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import yaml

from harness.model.probe import Ending
from harness.model.traffic import Family, PodRef, Protocol, Traffic
from harness.model.verdict import Decision, Verdict
from harness.policy.evaluate import Evaluator
from harness.policy.options import Options
from harness.policy.repository import Repository
from tests.clusters.netns.conftest import Bench, drops

PODS = ("p0", "p1", "p2", "p3")
PORTS = ((8080, Protocol.TCP), (8085, Protocol.TCP), (9000, Protocol.UDP))
DEPLOYED = yaml.safe_dump({
    "endpoints": {
        name: {
            "labels": {"app": name, "half": "low" if name < "p2" else "high"},
            "node": "ab"[number % 2],
            "ports": [8080, {"port": 8085, "name": "side"}, {"port": 9000, "protocol": "UDP", "serve": "echo"}],
        }
        for number, name in enumerate(PODS)
    }
})
REASONS = {Decision.DEFAULT_DENY: 133, Decision.DENY_RULE: 181}


def random_policy(chance: random.Random, name: str) -> dict[str, Any]:
    def selector() -> dict[str, Any]:
        return chance.choice([{}, {"matchLabels": {"half": chance.choice(["low", "high"])}}, {"matchLabels": {"app": chance.choice(PODS)}}])

    def ports() -> list[dict[str, Any]]:
        wanted = [
            {"port": "8080"},
            {"port": "8000", "endPort": 8084},
            {"port": "side", "protocol": "TCP"},
            {"port": "9000", "protocol": "UDP"},
            {"port": "0"},
        ]
        return [{"ports": [chance.choice(wanted)]}]

    def rule(way: str) -> dict[str, Any]:
        peers = chance.choice([
            {f"{way}Endpoints": [selector()]},
            {f"{way}Entities": [chance.choice(["all", "cluster", "world", "host"])]},
            {f"{way}CIDR": ["0.0.0.0/0"]},
            {},
        ])
        return {**peers, **({"toPorts": ports()} if chance.random() < 0.6 else {})}

    spec: dict[str, Any] = {"endpointSelector": selector()}
    for key, way in (("ingress", "from"), ("egress", "to"), ("ingressDeny", "from"), ("egressDeny", "to")):
        if chance.random() < (0.5 if key in {"ingress", "egress"} else 0.25):
            spec[key] = [rule(way) for _ in range(chance.randint(1, 2))]
    if len(spec) == 1:
        spec["ingress"] = [rule("from")]
    if chance.random() < 0.2:
        spec["enableDefaultDeny"] = {"ingress": False, "egress": False}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


@pytest.mark.parametrize("seed", range(10))
def test_packets_go_where_the_evaluator_says(bench: Bench, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 -- a sample, and the same one each time
    placement = bench.deploy(DEPLOYED)
    documents = [random_policy(chance, f"policy-{number}") for number in range(chance.randint(1, 4))]
    bench.apply(yaml.safe_dump_all(documents))
    evaluator = Evaluator(placement.state, Repository.empty(Options()).change([], documents))
    probes = [
        (
            bench.probe(source, target, port, protocol, serve="echo" if protocol is Protocol.UDP else "auto", timeout=5.0, family=family),
            source,
            target,
        )
        for source, target in itertools.permutations(PODS, 2)
        for port, protocol in PORTS
        for family in ((Family.IPV4, Family.IPV6) if "ipv6" in bench.cluster.capabilities.features else (Family.IPV4,))
    ]
    for seen, (probe, source, target) in zip(bench.send(*(each for each, _, _ in probes)), probes, strict=True):
        said = evaluator.verdict(
            Traffic(PodRef("default", source), PodRef("default", target), probe.protocol, probe.port, family=probe.family)
        )
        what = f"{source} -> {target}:{probe.port}/{probe.protocol} {probe.family}: {said} but {seen}"
        assert (seen.result.ending is Ending.ANSWERED) == (said.verdict is Verdict.ALLOW), what
        if said.dropped_at is not None:
            side = said.ingress if said.dropped_at.value == "ingress" else said.egress
            assert [(drop.direction, drop.drop_reason) for drop in drops(seen)] == [(said.dropped_at, REASONS[side.decision])], what
