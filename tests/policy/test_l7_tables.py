"""The model says of HTTP requests what the hand-written tables say, which hold the lab's proxy to the same."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from harness.model.cluster import ClusterState
from harness.model.traffic import PodRef, Protocol, Request, Traffic
from harness.model.verdict import L7Decision
from harness.policy.evaluate import Evaluator
from harness.policy.repository import Repository
from tests.clusters.netns.http_tables import TABLES, Table
from tests.policy.policy_worlds import cnp, pod, ports

STATE = ClusterState({"default": {}}, (pod("default", "client", {"app": "client"}), pod("default", "backend", {"app": "backend"})))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_the_model_agrees_with_the_table(table: Table) -> None:
    policy = cnp(
        "web",
        namespace="default",
        subject={"matchLabels": {"app": "backend"}},
        ingress=[{"toPorts": ports("8080/TCP", rules={"http": table.rules})}],
    )
    evaluator = Evaluator(STATE, Repository.empty().change(apply=[policy]))

    def verdict(request: Request) -> L7Decision:
        asked = replace(request, host=request.host or "10.0.0.1:8080")
        return evaluator.verdict(Traffic(PodRef("default", "client"), PodRef("default", "backend"), Protocol.TCP, 8080, asked)).l7

    assert [verdict(request) for request in table.passes] == [L7Decision.ALLOW] * len(table.passes)
    assert [verdict(request) for request in table.denied] == [L7Decision.DENY] * len(table.denied)
