"""A case as it stands in the lab's network: which pod is where, who has which address, where services lead. Says nothing of policy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from harness.clusters.netns import addresses
from harness.clusters.netns.kernel import Namespace
from harness.clusters.netns.ruleset import Forwarding
from harness.clusters.netns.servers import Served
from harness.clusters.netns.snapshot import PodPlace
from harness.clusters.netns.topology import Host, PodSlot, Topology
from harness.clusters.netns.wire import Port
from harness.errors import ClusterError
from harness.model.cluster import ClusterState, Pod, Service
from harness.model.probe import Site
from harness.model.traffic import Family, PodRef, Protocol

NOTHING = ClusterState(namespaces={}, pods=())


class Placed:
    """Takes a slot for every pod when it is made; `leave` gives them back."""

    def __init__(self, state: ClusterState, topology: Topology) -> None:
        """The nodes are there, with room for their pods."""
        self.state = state
        self._topology = topology
        self._pods = {pod.ref: pod for pod in state.pods}
        self._slots = {pod.ref: topology.take(pod.node) for pod in state.pods if not pod.host_network}
        self._sites: dict[tuple[Site, Family], tuple[Namespace, str]] = {}

    def leave(self) -> None:
        self._topology.give_back(self._slots.values())

    @property
    def nodes(self) -> Mapping[PodRef, str]:
        """The node of every pod that is a Cilium endpoint."""
        return {ref: slot.node for ref, slot in self._slots.items()}

    @property
    def places(self) -> Mapping[PodRef, PodPlace]:
        """The place of every pod that is a Cilium endpoint."""
        return {
            ref: PodPlace(slot.node, slot.link, slot.addresses, 1000 + slot.number * addresses.MAX_NODES + addresses.node_index(slot.node))
            for ref, slot in self._slots.items()
        }

    @property
    def namespaces(self) -> Mapping[str, Namespace]:
        """Every network that can be entered: pods as `pod ns/name`, nodes as `node a`, and what is outside by its name."""
        topology = self._topology
        return {
            **{f"pod {ref}": slot.namespace for ref, slot in self._slots.items()},
            **{f"node {name}": node.namespace for name, node in topology.nodes.items()},
            **{host.name: host.namespace for host in (topology.world, topology.kube_apiserver)},
        }

    def addresses(self, externals: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """Every address, by the keys of `Placement.addresses`. Externals get theirs."""
        topology = self._topology
        topology.take_on(address for own in externals.values() for address in own)
        found = {f"pod:{ref}": self._host_of(pod).addresses for ref, pod in self._pods.items()}
        found |= {f"external:{name}": self._usable(own) for name, own in externals.items()}
        found |= {
            f"service:{service.namespace}/{service.name}": self._usable(addresses.service(slot))
            for slot, service in enumerate(self.state.services)
            if not service.headless
        }
        found |= {f"node:{name}": node.addresses for name, node in topology.nodes.items() if name in {"a", "b", *self.state.nodes}}
        found["world"] = topology.world.addresses
        found["kube-apiserver"] = topology.kube_apiserver.addresses
        return found

    def served(self, ports: Iterable[Port], found: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[Served, Namespace]]:
        """What is to be served, and in which network. `found` are the addresses."""
        for port in ports:
            if port.pod is not None:
                host: Host | PodSlot = self._host_of(self._pods[port.pod])
                own, name = host.addresses, str(port.pod)
            else:
                host, own, name = self._topology.world, found[f"external:{port.external}"], port.external
            for address in own:
                yield Served(name, address, port.protocol, port.port, port.serve), host.namespace

    def forwardings(self, found: Mapping[str, tuple[str, ...]]) -> Iterator[Forwarding]:
        """Where each port of each service leads. What has no backend leads nowhere, and is left out."""
        for service in self.state.services:
            behind = [pod for pod in self.state.pods if _selects(service, pod)]
            for address in found.get(f"service:{service.namespace}/{service.name}", ()):
                for port in service.ports:
                    backends = tuple(
                        (each, number)
                        for pod in behind
                        if (number := _target_port(pod, port.target_port, port.protocol)) is not None
                        for each in self._host_of(pod).addresses
                        if (":" in each) == (":" in address)
                    )
                    if backends:
                        yield Forwarding(address, port.protocol.number, port.port, backends)

    def place(self, site: Site, family: Family) -> tuple[Namespace, str]:
        """Where code at this site runs, and the address it has there. Raises ClusterError for a site that is not in the case."""
        key = (site, family)
        found = self._sites.get(key)
        if found is None:
            found = self._sites[key] = self._find_place(site, family)
        return found

    def _find_place(self, site: Site, family: Family) -> tuple[Namespace, str]:
        host: Host | PodSlot
        match site.kind:
            case "pod":
                pod = self._pods.get(PodRef(*site.name.split("/", 1))) if "/" in site.name else None
                if pod is None:
                    raise ClusterError(f"there is no {site} in the lab")
                host = self._host_of(pod)
            case "node":
                if site.name not in self._topology.nodes:
                    raise ClusterError(f"there is no {site} in the lab")
                host = self._topology.nodes[site.name]
            case "world":
                host = self._topology.world
                if site.name:
                    self._topology.take_on([site.name])
                    return host.namespace, site.name
            case "kube-apiserver":
                host = self._topology.kube_apiserver
            case _:
                raise ClusterError(f"the lab has no site of the kind {site.kind!r}")
        address = next((each for each in host.addresses if Family.of(each) is family), None)
        if address is None:
            raise ClusterError(f"{site} has no {family} address: this machine has no IPv6")
        return host.namespace, address

    def _host_of(self, pod: Pod) -> Host | PodSlot:
        return self._topology.nodes[pod.node] if pod.host_network else self._slots[pod.ref]

    def _usable(self, wanted: Iterable[str]) -> tuple[str, ...]:
        return tuple(address for address in wanted if self._topology.ipv6 or ":" not in address)


def _selects(service: Service, pod: Pod) -> bool:
    return (
        service.selector is not None
        and service.namespace == pod.ref.namespace
        and all(pod.labels.get(key) == value for key, value in service.selector.items())
    )


def _target_port(pod: Pod, target: int | str, protocol: Protocol) -> int | None:
    if isinstance(target, int):
        return target
    return next((port.port for port in pod.ports if port.name == target and port.protocol is protocol), None)
