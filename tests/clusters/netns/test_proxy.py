"""The proxies as processes: without root, when they cannot start, and that none is left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.clusters.netns.cluster import LabOptions, NetnsCluster
from harness.errors import ClusterError
from tests.clusters.netns.conftest import Bench, require_lab
from tests.clusters.netns.http_tables import http
from tests.clusters.netns.test_http import TWO_NODES, ingress
from tests.clusters.netns.test_inside import run


def test_a_proxy_needs_no_root() -> None:
    require_lab()
    if os.geteuid() != 0:
        pytest.skip("this whole run is without root already")
    seen = run("nobody", module="inside_proxy")
    assert (seen["/public"], seen["/private"]) == (200, 403)
    assert [pid for pid in seen["proxies"] if Path(f"/proc/{pid}").exists()] == []


def test_an_envoy_that_does_not_start_is_an_error_with_its_last_words() -> None:
    require_lab()
    said = run("broken", module="inside_proxy")["error"]
    assert said.startswith("Envoy on b ended with status 3; it said:\n")
    assert said.endswith("no room for a proxy here")


def test_a_rule_that_envoy_refuses_changes_nothing_and_says_why(bench: Bench) -> None:
    """Cilium checks the patterns of paths and methods, and never those of hosts."""
    bench.deploy(TWO_NODES)
    bench.apply(ingress("web", {"path": "/public"}))
    with pytest.raises(ClusterError, match="refused its listeners") as raised:
        bench.apply(ingress("web", {"host": "*.shop.io"}))
    assert "no argument for repetition operator" in raised.value.message
    seen = [bench.try_("far", "backend", request=http("GET", path)).result.status for path in ("/public", "/private")]
    assert seen == [200, 403], "what was in force still is"
    bench.apply(ingress("web", {"path": "/other"}))
    assert bench.try_("far", "backend", request=http("GET", "/other")).result.status == 200


def test_a_lab_starts_an_envoy_when_a_case_needs_one_and_once_and_it_ends_with_the_lab(tmp_path: Path) -> None:
    require_lab()
    cluster = NetnsCluster(LabOptions(flows=False))
    try:
        bench = Bench(cluster, tmp_path)
        bench.deploy(TWO_NODES)
        bench.apply("shut: {endpointSelector: {matchLabels: {app: backend}}, ingress: [{}]}")
        assert cluster.proxies() == {}
        bench.apply(ingress("web", {"path": "/public"}))
        first = cluster.proxies()
        assert list(first) == ["b"], "there is no rule for a pod of the other node"
        bench.deploy(TWO_NODES)
        bench.apply(ingress("web", {"path": "/else"}))
        assert cluster.proxies() == first
    finally:
        cluster.close()
    assert not Path(f"/proc/{first['b']}").exists()
