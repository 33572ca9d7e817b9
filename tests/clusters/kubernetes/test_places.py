"""Which nodes pods may go to, and who is behind an address."""

from __future__ import annotations

import pytest

from harness.clusters.kubernetes.client import Api
from harness.clusters.kubernetes.places import nodes_for, owners
from harness.clusters.kubernetes.wishes import PodOptions, Toleration
from harness.errors import ClusterError
from tests.clusters.kubernetes.apiserver import served


def node(name: str, *, ready: str = "True", taint: str = "", effect: str = "NoSchedule", pool: str = "a", cordoned: bool = False) -> object:
    return {
        "metadata": {"name": name, "labels": {"pool": pool}},
        "spec": {"unschedulable": cordoned, "taints": [{"key": taint, "effect": effect}] if taint else None},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


NODES = [
    node("plain"),
    node("broken", ready="False"),
    node("cordoned", cordoned=True),
    node("soft", taint="busy", effect="PreferNoSchedule"),
    node("dedicated", taint="dedicated"),
    node("another-pool", pool="b"),
]


def names(kubeconfig, wishes: PodOptions, nodes: list[object]) -> list[str]:
    with served(lambda _: (200, {"kind": "NodeList", "items": nodes})) as address:
        kubeconfig(address)
        return [each.metadata.name for each in nodes_for(Api.connect(), wishes)]


@pytest.mark.parametrize(
    ("wishes", "chosen"),
    [
        (PodOptions(), ["another-pool", "plain", "soft"]),
        (PodOptions(tolerations=(Toleration("dedicated"),)), ["another-pool", "dedicated", "plain", "soft"]),
        (PodOptions(node_selector=(("pool", "a"),)), ["plain", "soft"]),
    ],
)
def test_pods_go_where_they_are_wished_and_tolerated(wishes, chosen, kubeconfig):
    assert names(kubeconfig, wishes, NODES) == chosen


def test_where_they_may_go_nowhere_it_says_how_many_nodes_there_are(kubeconfig):
    with pytest.raises(ClusterError, match="none of the 2 nodes is ready for pods") as raised:
        names(kubeconfig, PodOptions(), NODES[1:3])
    assert "--toleration" in str(raised.value)


def test_a_nodes_address_is_that_of_every_pod_in_its_network():
    found = owners({
        "pod:shop/web": ("10.0.0.1",),
        "pod:shop/exporter": ("192.0.2.1",),
        "node:one": ("192.0.2.1",),
        "service:shop/web": ("10.96.0.1",),
    })
    assert found == {"10.0.0.1": {"shop/web"}, "192.0.2.1": {"shop/exporter", "node-one"}}
