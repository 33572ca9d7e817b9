"""What is in a cluster, as policy sees it: namespaces, pods, services, CIDR groups. No addresses of pods: policy never matches them."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from harness.model.traffic import PodRef, Protocol

LOCAL_CLUSTER = "default"
"""The name of a Cilium cluster that was given none."""


class ContainerPort(Struct, frozen=True):
    """A port a pod declares. Named ports in policies resolve to it by name and protocol."""

    port: int
    protocol: Protocol = Protocol.TCP
    name: str | None = None


class Pod(Struct, frozen=True):
    """A pod. Unless `host_network`, it is a Cilium endpoint; with it, it is its node's `host`."""

    ref: PodRef
    labels: Mapping[str, str]
    node: str
    service_account: str | None = None
    ports: tuple[ContainerPort, ...] = ()
    cluster: str = LOCAL_CLUSTER
    host_network: bool = False


class ServicePort(Struct, frozen=True):
    port: int
    target_port: int | str
    protocol: Protocol = Protocol.TCP
    name: str | None = None


class Service(Struct, frozen=True):
    """A Kubernetes Service. Without a selector its backends are `backends` (addresses outside the cluster)."""

    namespace: str
    name: str
    selector: Mapping[str, str] | None
    ports: tuple[ServicePort, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    headless: bool = False
    type: str = "ClusterIP"
    backends: tuple[str, ...] = ()


class ExternalHost(Struct, frozen=True):
    """A machine outside the cluster. `kube_apiserver`: the API server runs there (labels world and kube-apiserver). `ttl`: how many seconds
    DNS answers of its names are good for, None where nobody says."""

    name: str
    address: str
    names: tuple[str, ...] = ()
    kube_apiserver: bool = False
    ttl: int | None = None


class CIDRGroup(Struct, frozen=True):
    """A CiliumCIDRGroup."""

    name: str
    cidrs: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)


class ClusterState(Struct, frozen=True):
    """Everything the policy model needs to know about a cluster besides its policies.

    `namespaces` maps each namespace to its labels; `kubernetes.io/metadata.name` is added where it is missing.
    """

    namespaces: Mapping[str, Mapping[str, str]]
    pods: tuple[Pod, ...]
    externals: tuple[ExternalHost, ...] = ()
    services: tuple[Service, ...] = ()
    cidr_groups: tuple[CIDRGroup, ...] = ()
    nodes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Node name to node labels; nodes that pods name need not be listed."""
