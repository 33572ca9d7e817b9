"""Who would be at which address if the case were deployed. Made up, but as in a cluster: pods, nodes, services, the outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from msgspec import Struct

from harness.cases.case import Case, EndpointSpec, Placement, PortSpec
from harness.cases.resolver import with_resolver
from harness.cases.state import cluster_state, external_addresses
from harness.errors import ClusterError
from harness.model.cluster import Pod, Service, ServicePort
from harness.model.flow import FlowEndpoint
from harness.model.identity import CLUSTER_IDENTITY_MIN, LOCAL_IDENTITY_MIN, ReservedIdentity
from harness.model.labels import NAMESPACE_LABEL
from harness.model.probe import Site
from harness.model.traffic import Entity, EntityName, External, Family, Peer, PodRef, Protocol

WORLD = ("192.0.2.1", "2001:db8:1::1")
API_SERVER = ("172.18.0.254", "fd00:18::fe")
_DNS_PORTS = {(Protocol.UDP, 53): "dns", (Protocol.TCP, 53): "dns"}


class Machine(Struct, frozen=True):
    """One thing with addresses. `serves` maps protocol and port to what is spoken there; None: it answers on every port."""

    server: str
    addresses: tuple[str, ...]
    endpoint: FlowEndpoint
    serves: Mapping[tuple[Protocol, int], str] | None = None
    pod: Pod | None = None
    node: str | None = None
    entity: EntityName | None = None

    def serve(self, protocol: Protocol, port: int) -> str | None:
        """What is spoken on a port; None where nobody listens."""
        if not protocol.has_ports:
            return "icmp"
        return "auto" if self.serves is None else self.serves.get((protocol, port))

    def peer(self, other: Machine, family: Family) -> Peer:
        """What policy sees, from `other`'s point of view: a node is `host` to what runs on it, else `remote-node`."""
        if self.pod is not None:
            return self.pod.ref
        if self.node is not None:
            return Entity(EntityName.HOST if other.node in (None, self.node) else EntityName.REMOTE_NODE)
        return Entity(self.entity) if self.entity is not None else External(self.address(family))

    def address(self, family: Family) -> str:
        found = next((each for each in self.addresses if Family.of(each) is family), None)
        if found is None:
            raise ClusterError(f"{self.server} has no {family} address in the simulated cluster")
        return found


class VirtualAddress(Struct, frozen=True):
    """A service's ClusterIP: where each of its ports leads."""

    name: str
    ports: Mapping[tuple[Protocol, int], tuple[tuple[Machine, int], ...]]


@dataclass(slots=True)
class Landscape:
    """A case as it is placed, and what is at each address."""

    placement: Placement
    machines: dict[str, Machine] = field(default_factory=dict)
    services: dict[str, VirtualAddress] = field(default_factory=dict)
    sites: dict[Site, Machine] = field(default_factory=dict)
    sharing: dict[str, list[Machine]] = field(default_factory=dict)
    """Host-network pods by the address of the node whose network they share."""

    def sender(self, site: Site) -> Machine:
        """What a probe is sent from."""
        machine = self.sites.get(site) or (self.machines.get(site.name) if site.kind == "world" else None)
        if machine is None:
            raise ClusterError(f"the simulated cluster has no site {site}")
        return machine


def landscape(case: Case) -> Landscape:
    """Give every part of the case its addresses."""
    return _Builder(case).build()


class _Builder:
    def __init__(self, case: Case) -> None:
        self._case = case
        self._identities: dict[tuple[str, ...], int] = {}
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._specs: dict[PodRef, EndpointSpec] = {ref: spec for spec in case.endpoints.values() for ref in spec.pods()}

    def build(self) -> Landscape:
        state = with_resolver(self._case, cluster_state(self._case))
        result = Landscape(Placement(state, self._addresses))
        nodes = sorted({*state.nodes, *(pod.node for pod in state.pods)})
        for place, node in enumerate(nodes):
            addresses = _both("172.18.0.0", "fd00:18::", place + 2)
            machine = Machine(f"node-{node}", addresses, _reserved(ReservedIdentity.HOST, "host"), node=node)
            self._put(result, f"node:{node}", Site("node", node), machine)
        for place, pod in enumerate(state.pods):
            self._put(result, f"pod:{pod.ref}", Site("pod", str(pod.ref)), self._pod(pod, place))
        for name, host in self._externals():
            self._put(result, f"external:{name}", None, host)
        self._put(result, "world", None, Machine("world", WORLD, _reserved(ReservedIdentity.WORLD, "world")))
        api_server = _reserved(ReservedIdentity.KUBE_APISERVER, "kube-apiserver")
        machine = Machine("kube-apiserver", API_SERVER, api_server, entity=EntityName.KUBE_APISERVER)
        self._put(result, "kube-apiserver", Site("kube-apiserver", ""), machine)
        for place, service in enumerate(state.services):
            self._service(result, service, place)
        return result

    def _put(self, result: Landscape, key: str, site: Site | None, machine: Machine) -> None:
        self._addresses[key] = machine.addresses
        for address in machine.addresses:
            if machine.pod is not None and machine.pod.host_network:
                result.sharing.setdefault(address, []).append(machine)
            else:
                result.machines[address] = machine
        if site is not None:
            result.sites[site] = machine

    def _pod(self, pod: Pod, place: int) -> Machine:
        spec = self._specs.get(pod.ref)
        ports: tuple[PortSpec, ...] = spec.ports if spec else ()
        serves = {(port.protocol, port.port): port.serve.value for port in ports} if spec else _DNS_PORTS
        addresses = self._addresses[f"node:{pod.node}"] if pod.host_network else _both("10.244.0.0", "fd00:244::", place + 10)
        labels = (*sorted(f"k8s:{key}={value}" for key, value in pod.labels.items()), f"k8s:{NAMESPACE_LABEL}={pod.ref.namespace}")
        number = self._identities.setdefault(labels, CLUSTER_IDENTITY_MIN + len(self._identities))
        endpoint = FlowEndpoint(number, pod.ref.namespace, pod.ref.name, labels, pod.cluster)
        if pod.host_network:
            endpoint = _reserved(ReservedIdentity.HOST, "host")
        return Machine(str(pod.ref), addresses, endpoint, serves, pod, pod.node)

    def _externals(self) -> Iterator[tuple[str, Machine]]:
        for place, (name, addresses) in enumerate(external_addresses(self._case).items()):
            serves = {(port.protocol, port.port): port.serve.value for port in self._case.externals[name].ports}
            labels = (*(f"cidr:{address}/{ip_address(address).max_prefixlen}" for address in addresses), "reserved:world")
            yield name, Machine(name, addresses, FlowEndpoint(LOCAL_IDENTITY_MIN + 1 + place, labels=labels), serves)

    def _service(self, result: Landscape, service: Service, place: int) -> None:
        if service.headless:
            return
        backends = [
            result.sites[Site("pod", str(pod.ref))]
            for pod in result.placement.state.pods
            if service.selector is not None and pod.ref.namespace == service.namespace and service.selector.items() <= pod.labels.items()
        ]
        ports = {
            (port.protocol, port.port): tuple((each, number) for each in backends if (number := _target_port(each, port)) is not None)
            for port in service.ports
        }
        addresses = _both("10.96.0.0", "fd00:96::", place + 10)
        self._addresses[f"service:{service.namespace}/{service.name}"] = addresses
        for address in addresses:
            result.services[address] = VirtualAddress(f"{service.namespace}/{service.name}", ports)


def _target_port(machine: Machine, port: ServicePort) -> int | None:
    if isinstance(port.target_port, int):
        return port.target_port
    ports = machine.pod.ports if machine.pod else ()
    return next((each.port for each in ports if each.name == port.target_port and each.protocol is port.protocol), None)


def _reserved(number: ReservedIdentity, name: str) -> FlowEndpoint:
    return FlowEndpoint(number, labels=(f"reserved:{name}",))


def _both(ipv4: str, ipv6: str, offset: int) -> tuple[str, str]:
    return str(ip_address(ipv4) + offset), str(ip_address(ipv6) + offset)
