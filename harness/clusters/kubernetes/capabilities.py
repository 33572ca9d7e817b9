"""What a cluster can do, from Cilium's own configuration and its nodes. Pure, but for `agent_pods` and `read_config`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness.clusters.base import Capabilities
from harness.clusters.kubernetes.client import Api
from harness.clusters.kubernetes.deploy import API_ERRORS
from harness.model.traffic import PodRef

_AGENTS = "k8s-app=cilium"
_VERSION = re.compile(r"cilium[^:@]*:v?(\d+\.\d+\.\d+[^@\s]*)")
_SWITCHES = {
    "l7-http": ("enable-l7-proxy", "true"),
    "icmp": ("enable-icmp-rules", "true"),
    "sctp": ("enable-sctp", "false"),
    "ipv6": ("enable-ipv6", "false"),
    "auth": ("mesh-auth-enabled", "true"),
    "spire": ("mesh-auth-mutual-enabled", "false"),
    "audit": ("policy-audit-mode", "false"),
    "wireguard": ("enable-wireguard", "false"),
    "ipsec": ("enable-ipsec", "false"),
    "kube-proxy-replacement": ("kube-proxy-replacement", "false"),
}
"""Each feature's key in cilium-config, and what Cilium takes where it is absent."""
_NOT_HERE = {
    "externals": "externals and the outside world are off on a cluster that is not ours",
    "fqdn": "names outside need externals, which are off on a cluster that is not ours",
    "host-firewall": "a policy for nodes cannot be scoped to this run's pods",
    "to-services": "not offered on a cluster that is not ours",
    "l7-dns": "the pods' agent does not look names up yet",
    "tls-sni": "the pods' agent does not speak TLS yet",
    "clustermesh": "one context is one cluster",
}


def agent_pods(api: Api) -> list[Any]:
    """The running pods of Cilium's agents; none where this user may not look."""
    try:
        found = api.core.list_pod_for_all_namespaces(label_selector=_AGENTS, _request_timeout=10).items
    except API_ERRORS:
        return []
    return [pod for pod in found if pod.status.phase == "Running"]


def read_config(api: Api, namespace: str) -> Mapping[str, str] | None:
    """cilium-config; None where it is not there or may not be read."""
    try:
        return dict(api.core.read_namespaced_config_map("cilium-config", namespace, _request_timeout=10).data or {})
    except API_ERRORS:
        return None


def version_of_image(pods: list[Any]) -> str:
    """The version in the agents' image tag; '' where it has none."""
    for pod in pods:
        for container in pod.spec.containers:
            if found := _VERSION.search(container.image or ""):
                return found[1]
    return ""


def by_node(pods: list[Any]) -> Mapping[str, PodRef]:
    return {pod.spec.node_name: PodRef(pod.metadata.namespace, pod.metadata.name) for pod in pods}


def capabilities(version: str, config: Mapping[str, str] | None, nodes: int, *, allow_host: bool) -> Capabilities:
    """`config` None: it may not be read, so only what every Cilium has is offered. `nodes` are those that pods may go to."""
    features = {"services"}
    lacking = dict(_NOT_HERE)
    for feature, (key, default) in _SWITCHES.items():
        if config is None:
            lacking[feature] = "cilium-config cannot be read, so nobody knows whether it is on"
        elif (value := config.get(key, default)).lower() in {"true", "strict", "partial", "probe"}:
            features.add(feature)
        else:
            lacking[feature] = f"{key} is {value!r} in cilium-config"
    if config is None:
        features.add("icmp")
        lacking.pop("icmp")
    features.update(f"nodes-{count}" for count in range(2, nodes + 1))
    if nodes < 2:
        lacking["nodes-2"] = f"the cluster has {nodes} node that pods may go to"
    if allow_host:
        features.add("host-endpoints")
    else:
        lacking["host-endpoints"] = "host-network endpoints need --allow-host"
    lacking["cidr-group"] = "CIDR groups are clusterwide objects, which the harness does not create on a cluster yet"
    return Capabilities(version, frozenset(features), lacking)
