"""The way to a cluster's Relay, when its pod is replaced by another."""

from __future__ import annotations

import os
import socket
import time

import pytest

from harness.clusters.kubernetes import background
from harness.clusters.kubernetes.client import Api
from harness.clusters.kubernetes.flows import Flows
from harness.clusters.kubernetes.relay import find_relay

CONTEXT = os.environ.get("HARNESS_TEST_KUBE_CONTEXT", "")
pytestmark = [
    pytest.mark.skipif(not CONTEXT, reason="no cluster: `make test-kubernetes CONTEXT=...` runs these against a kubeconfig context"),
    pytest.mark.xdist_group("kubernetes"),
]


def test_a_relay_that_was_replaced_by_another_pod_is_followed_there():
    api = Api.connect(CONTEXT)
    flows = Flows.connect(api)
    try:
        before = find_relay(api)
        api.core.delete_namespaced_pod(before.pod, before.namespace, grace_period_seconds=0)
        until = time.monotonic() + 60
        while api.core.list_namespaced_pod(before.namespace, field_selector=f"metadata.name={before.pod}").items:
            assert time.monotonic() < until
            time.sleep(0.1)
        # Where the runtime let the old connection live on: its end.
        for near in tuple(flows.forward._open):
            near.shutdown(socket.SHUT_RDWR)
        while flows.feed.broken is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        received = flows.feed.received
        background.wait_for(flows.feed.back(within=60))
        assert flows.feed.broken is None
        assert find_relay(api).pod != before.pod
        while flows.feed.received == received:
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        flows.close()
