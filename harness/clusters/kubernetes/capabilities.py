"""What a cluster can do, from what Cilium says of itself (its configuration, its agents' status) and from what the user allows. Pure, but
for `agent_pods` and `read_config`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, field

from harness.clusters.base import Capabilities
from harness.clusters.kubernetes.client import API_ERRORS, Api
from harness.model.traffic import PodRef

_AGENTS = "k8s-app=cilium"
_VERSION = re.compile(r"cilium[^:@]*:v?(\d+\.\d+\.\d+[^@\s]*)")
_ON = frozenset({"true", "strict", "partial", "probe"})
_SWITCHES = {
    "l7-http": ("enable-l7-proxy", "true"),
    "l7-dns": ("enable-l7-proxy", "true"),
    "fqdn": ("enable-l7-proxy", "true"),
    "icmp": ("enable-icmp-rules", "true"),
    "sctp": ("enable-sctp", "false"),
    "ipv4": ("enable-ipv4", "true"),
    "ipv6": ("enable-ipv6", "false"),
    "auth": ("mesh-auth-enabled", "true"),
    "spire": ("mesh-auth-mutual-enabled", "false"),
    "audit": ("policy-audit-mode", "false"),
    "wireguard": ("enable-wireguard", "false"),
    "ipsec": ("enable-ipsec", "false"),
    "kube-proxy-replacement": ("kube-proxy-replacement", "false"),
}
"""Each feature's key in cilium-config, and what Cilium takes where it is absent."""
_DNS_REFUSAL, _REFUSED = "tofqdns-dns-reject-response-code", "refused"
_NOT_HERE = {
    "externals": "the outside of a cluster that is not ours is left alone: --externals FILE maps what a case calls external",
    "external-sources": "nothing outside a cluster that is not ours can be made to send",
    "host-firewall": "a policy for nodes cannot be scoped to this run's pods",
    "kube-apiserver": "the API server there is the cluster's own: it proves neither who answered nor what it saw",
    "tls-sni": "the pods' agent does not speak TLS yet",
    "grpc": "the pods' agent does not speak gRPC yet",
}


class AgentStatus(Struct, frozen=True):
    """What an agent says of itself (`cilium-dbg status -o json`). None where it does not say. `services`: it can list the services it knows."""

    encryption: str | None = None
    """disabled, ipsec or wireguard."""
    kube_proxy_replacement: str | None = None
    clusters: int | None = None
    """How many other clusters it knows (Cluster Mesh)."""
    services: bool = False


class Facts(Struct, frozen=True):
    """What was found out about a cluster. `config` None: cilium-config may not be read. `nodes` are those that pods may go to."""

    version: str
    config: Mapping[str, str] | None
    nodes: int
    status: AgentStatus = field(default_factory=AgentStatus)


def parse_status(text: str, *, services: bool = False) -> AgentStatus:
    """An agent's status; of what is no status, nothing is known."""
    try:
        said = json.loads(text)
        encryption = (said.get("encryption") or {}).get("mode")
        replacement = (said.get("kube-proxy-replacement") or {}).get("mode")
        mesh = said.get("cluster-mesh")
        return AgentStatus(
            encryption=str(encryption).lower() if encryption else None,
            kube_proxy_replacement=str(replacement).lower() if replacement else None,
            clusters=len(mesh.get("clusters") or ()) if mesh else None,
            services=services,
        )
    except (ValueError, TypeError, AttributeError):
        return AgentStatus(services=services)


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


def capabilities(facts: Facts, *, allow_host: bool, allow_clusterwide: bool) -> Capabilities:
    """What is on, and for everything else the reason, as the end of a skip's sentence."""
    features = {"services"}
    lacking = dict(_NOT_HERE)

    def offer(feature: str, there: bool, why: str) -> None:
        if there:
            features.add(feature)
            lacking.pop(feature, None)
        else:
            lacking[feature] = why

    for feature, (key, default) in _SWITCHES.items():
        unread = "cilium-config cannot be read, so nobody knows whether it is on"
        value = (facts.config or {}).get(key, default).lower()
        offer(
            feature,
            facts.config is not None and value in _ON,
            f"{key} is {value!r} in cilium-config" if facts.config is not None else unread,
        )
    answer = (facts.config or {}).get(_DNS_REFUSAL, _REFUSED)
    if answer.lower() != _REFUSED.lower():
        offer("l7-dns", there=False, why=f"{_DNS_REFUSAL} is {answer!r} in cilium-config: a refused name looks like one that is not there")
    if facts.config is None:
        for feature in ("icmp", "ipv4"):
            offer(feature, there=True, why="")
    status = facts.status
    if status.encryption is not None:
        for feature in ("wireguard", "ipsec"):
            offer(feature, status.encryption == feature, f"the agents say that encryption is {status.encryption}")
    if status.kube_proxy_replacement is not None:
        mode = status.kube_proxy_replacement
        offer("kube-proxy-replacement", mode in _ON, f"the agents say that kube-proxy replacement is {mode}")
    offer("clustermesh", bool(status.clusters), "the agents know no other cluster")
    offer("to-services", status.services, "the agents cannot say which services they know")
    features.update(f"nodes-{count}" for count in range(2, facts.nodes + 1))
    offer("nodes-2", facts.nodes >= 2, f"the cluster has {facts.nodes} node that pods may go to")
    offer("host-endpoints", allow_host, "host-network endpoints need --allow-host")
    offer("clusterwide", allow_clusterwide, "clusterwide policies need --allow-clusterwide")
    offer("cidr-group", allow_clusterwide, "CIDR groups are clusterwide objects: they need --allow-clusterwide")
    return Capabilities(facts.version, frozenset(features), lacking)
