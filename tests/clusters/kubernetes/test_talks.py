"""The open lines to a case's pods, against a real API server: kept from plan to plan, and opened again where one broke."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from harness.cases.load import load_cases
from harness.clusters.kubernetes import talks
from harness.clusters.kubernetes.cluster import KubernetesCluster, KubernetesOptions
from harness.clusters.kubernetes.exec import Exec
from harness.model.probe import Ending, Probe, Site
from harness.model.traffic import Family, Protocol

CONTEXT = os.environ.get("HARNESS_TEST_KUBE_CONTEXT", "")
pytestmark = [
    pytest.mark.skipif(not CONTEXT, reason="no cluster: `make test-kubernetes CONTEXT=...` runs these against a kubeconfig context"),
    pytest.mark.xdist_group("kubernetes"),
]
CASE = """
case: two pods
namespace: shop
endpoints:
  client: {labels: {app: client}}
  server: {labels: {app: server}, ports: [80]}
phases:
  baseline: [{allow: "client -> server:80"}]
"""


@pytest.fixture
def execs(monkeypatch) -> list[Exec]:
    """Every exec that is opened for a talk."""
    opened: list[Exec] = []

    class Told(Exec):
        def start(self) -> None:
            opened.append(self)
            super().start()

    monkeypatch.setattr(talks, "Exec", Told)
    return opened


@pytest.fixture
def ask(tmp_path) -> Iterator[object]:
    """Sends one probe to the server and returns its result."""
    path = tmp_path / "test_case.yaml"
    path.write_text(CASE)
    cluster = KubernetesCluster(KubernetesOptions(context=CONTEXT))
    try:
        (case,) = load_cases(path)
        address = cluster.prepare(case).addresses["pod:shop/server"][0]

        def one(number: int):
            probe = Probe(
                number, Site("pod", "shop/client"), Protocol.TCP, Family.of(address), address, 80, f"{number:02x}", 2.0, ("shop/server",)
            )
            (seen,) = cluster.probe([probe])
            return seen.result

        yield one
    finally:
        cluster.close()


def test_one_line_to_each_pod_serves_all_plans_and_a_broken_one_is_opened_again(execs, ask):
    assert [ask(1).ending, ask(2).ending] == [Ending.ANSWERED] * 2
    assert sorted(each.pod.name for each in execs) == ["client", "server"]
    broken = next(each for each in execs if each.pod.name == "client")
    broken.close()
    broken.join(10.0)
    assert not broken.is_alive()
    again = ask(3)
    assert (again.ending, again.server, again.attempts) == (Ending.ANSWERED, "shop/server", 1)
    assert [each.pod.name for each in execs[2:]] == ["client"]


def test_a_line_that_is_silent_is_opened_again_before_anything_is_sent(execs, ask, monkeypatch):
    assert ask(1).ending is Ending.ANSWERED
    monkeypatch.setattr(talks, "_KEPT", 0.2)
    silent = next(each for each in execs if each.pod.name == "client")
    monkeypatch.setattr(silent, "send", lambda _: None)
    assert ask(2).ending is Ending.ANSWERED
    assert [each.pod.name for each in execs[2:]].count("client") == 1
