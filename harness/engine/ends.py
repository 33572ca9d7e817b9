"""Who stands behind the names of an expectation, in one case as it is placed: ends that send, and doors that are knocked at. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from harness.cases.case import Case, EndpointSpec, ExternalSpec, Party, PartyKind, Placement, PortSpec, Serve, ServiceSpec, Target
from harness.model.cluster import Pod
from harness.model.probe import Site
from harness.model.traffic import Entity, EntityName, External, Family, Peer, PodRef, Protocol, Request, RequestKind
from harness.probes.plan import ICMP_ECHO, ICMPV6_ECHO, Server

KUBE_DNS = PodRef("kube-system", "kube-dns")
CLUSTER_DOMAIN = "cluster.local"
_RELATIVE = ("host", "remote-node")


class End(Struct, frozen=True):
    """One end of a check: a pod, a node, something outside, or the API server; `peer` says what policy sees from the other end."""

    label: str
    key: str
    site: Site
    address: str | None
    pod: Pod | None = None
    node: str | None = None
    fixed: Peer | None = None

    @property
    def bind(self) -> str:
        """The address to send from: a pod has only one of a family."""
        return "" if self.site.kind == "pod" else self.address or ""

    def peer(self, other_node: str | None) -> Peer:
        """A pod is itself. A node is `host` to its own pods and `remote-node` to others."""
        if self.fixed is not None:
            return self.fixed
        if self.pod is not None:
            return self.pod.ref
        return Entity(EntityName.HOST if other_node in (None, self.node) else EntityName.REMOTE_NODE)


class Door(Struct, frozen=True):
    """A target's end with its port, as dialled (`end.address`, `port`) and as served (`behind`: server and its end)."""

    end: End
    port: int
    protocol: Protocol
    serve: str = Serve.AUTO.value
    behind: tuple[tuple[Server, End], ...] = ()
    port_label: str = ""
    triple_port: int | None = None
    fault: str = ""
    lookup: str = ""
    also: tuple[tuple[str, int], ...] = ()


class Ends:
    """Finds the ends that parties name, in one case as it is placed. Remembers what it found."""

    def __init__(self, case: Case, placement: Placement) -> None:
        self._case = case
        self._placement = placement
        self._pods = {pod.ref: pod for pod in placement.state.pods}
        self._ends: dict[tuple[str, Family], tuple[End, ...]] = {}
        self._doors: dict[tuple[Target, Family, Request | None], tuple[Door, ...]] = {}
        self._nodes = sorted(key.removeprefix("node:") for key in placement.addresses if key.startswith("node:"))

    def is_itself(self, sender: End, door: Door) -> bool:
        """A replica of a group that talks to its own group leaves itself out: it would never meet policy."""
        if sender.pod is None or door.end.pod is None or sender.pod.ref != door.end.pod.ref:
            return False
        return any(spec.replicas > 1 and sender.pod.ref in spec.pods() for spec in self._case.endpoints.values())

    def pairs(self, source: Party, target: Target, family: Family, request: Request | None) -> Iterator[tuple[End, Door]]:
        """Every sender that the source means with every door that the target means, for `host` and `remote-node` seen from each other."""
        if target.party.kind is PartyKind.BUILTIN and target.party.name in _RELATIVE:
            for sender in self._senders(source, family, None):
                for door in self._built_in_doors(target, family, request, sender.node):
                    yield sender, door
            return
        doors = self._targets(target, family, request)
        if source.kind is PartyKind.BUILTIN and source.name in _RELATIVE:
            for door in doors:
                node = next((end.node for _, end in door.behind if end.node), door.end.node)
                for sender in self._senders(source, family, node):
                    yield sender, door
            return
        for sender in self._senders(source, family, None):
            for door in doors:
                yield sender, door

    # Sources

    def _senders(self, party: Party, family: Family, other_node: str | None) -> tuple[End, ...]:
        match party.kind:
            case PartyKind.ENDPOINT:
                return self._endpoint(self._case.endpoints[party.name], family)
            case PartyKind.EXTERNAL:
                return (self._external(party.name, family),)
            case PartyKind.ADDRESS:
                return (_outside(party.name, party.name, party.name),) if Family.of(party.name) is family else ()
            case PartyKind.BUILTIN:
                return (self._built_in(party.name, family, other_node),)
            case _:
                return (End(str(party), str(party), Site("pod", ""), None),)

    def _endpoint(self, spec: EndpointSpec, family: Family) -> tuple[End, ...]:
        key = (spec.name, family)
        if key not in self._ends:
            self._ends[key] = tuple(
                self._pod_end(ref, f"{spec.name}[{index}]" if spec.replicas > 1 else spec.name, family)
                for index, ref in enumerate(spec.pods())
            )
        return self._ends[key]

    def _pod_end(self, ref: PodRef, label: str, family: Family) -> End:
        pod = self._pods[ref]
        return End(label, label, Site("pod", str(ref)), self._placement.address(f"pod:{ref}", family), pod, pod.node)

    def _external(self, name: str, family: Family) -> End:
        return _outside(name, name, self._placement.address(f"external:{name}", family))

    def _built_in(self, name: str, family: Family, other_node: str | None) -> End:
        address = self._placement.address
        match name:
            case "host" | "remote-node":
                wanted = [each for each in self._nodes if (each == other_node) == (name == "host")]
                if other_node is None or not wanted:
                    return End(name, name, Site("node", ""), None)
                node = wanted[0]
                return End(name, name, Site("node", node), address(f"node:{node}", family), node=node)
            case "kube-apiserver":
                return End(name, name, Site(name, ""), address(name, family), fixed=Entity(EntityName.KUBE_APISERVER))
            case _:
                return _outside(name, name, address(name, family))

    # Targets

    def _targets(self, target: Target, family: Family, request: Request | None) -> tuple[Door, ...]:
        key = (target, family, request)
        if key not in self._doors:
            self._doors[key] = tuple(self._find_doors(target, family, request))
        return self._doors[key]

    def _find_doors(self, target: Target, family: Family, request: Request | None) -> Iterator[Door]:
        party = target.party
        match party.kind:
            case PartyKind.ENDPOINT:
                spec = self._case.endpoints[party.name]
                for end in self._endpoint(spec, family):
                    yield _door(end, target, family, request, _port(spec.ports, target), self._pod_name(end))
            case PartyKind.EXTERNAL:
                yield self._external_door(self._case.externals[party.name], target, family, request)
            case PartyKind.SERVICE:
                yield from self._service_doors(self._case.services[party.name], target, family)
            case PartyKind.BUILTIN:
                yield from self._built_in_doors(target, family, request, None)
            case PartyKind.ADDRESS:
                if Family.of(party.name) is family:
                    yield self._address_door(target, family, request)
            case PartyKind.NAME:
                yield from self._name_doors(target, family, request)

    def _pod_name(self, end: End) -> str:
        return str(end.pod.ref) if end.pod else end.key

    def _external_door(self, spec: ExternalSpec, target: Target, family: Family, request: Request | None) -> Door:
        return _door(self._external(spec.name, family), target, family, request, _port(spec.ports, target), spec.name)

    def _address_door(self, target: Target, family: Family, request: Request | None) -> Door:
        """An address belongs to whatever declared thing has it; else nobody is meant to answer there."""
        address = str(ipaddress.ip_address(target.party.name))
        end = _outside(target.party.name, target.party.name, address)
        for key, addresses in self._placement.addresses.items():
            kind, _, name = key.partition(":")
            if address in addresses and kind == "external":
                return _door(end, target, family, request, _port(self._case.externals[name].ports, target), name)
            if address in addresses and kind == "world":
                return _door(end, target, family, request, None, "world")
        return _door(end, target, family, request, None, "")

    def _built_in_doors(self, target: Target, family: Family, request: Request | None, sender_node: str | None) -> Iterator[Door]:
        name = target.party.name
        if name == "kube-dns":
            yield self._dns_door(target, family)
            return
        end = self._built_in(name, family, sender_node)
        if end.site.kind != "node":
            yield _door(end, target, family, request, None, name)
            return
        # What shares the node's network answers for the node where it declares the port.
        for spec in self._case.endpoints.values():
            for ref in spec.pods() if spec.host_network else ():
                port = _port(spec.ports, target)
                if port is not None and self._pods[ref].node == end.node:
                    yield _door(end, target, family, request, port, str(ref))
                    return
        yield _door(end, target, family, request, None, f"node-{end.node}")

    def dns(self, family: Family) -> tuple[str, tuple[tuple[Server, End], ...]] | None:
        """The DNS service's address and its servers, where the cluster has one."""
        address = self._placement.address(f"service:{KUBE_DNS}", family)
        if address is None:
            return None
        behind = []
        for pod in self._pods.values():
            if pod.ref.namespace == KUBE_DNS.namespace and pod.labels.get("k8s-app") == KUBE_DNS.name:
                end = self._pod_end(pod.ref, str(pod.ref), family)
                if end.address is not None:
                    behind.append((Server(str(pod.ref), end.site, end.address, Protocol.UDP, 53, Serve.DNS.value), end))
        return address, tuple(behind)

    def _dns_door(self, target: Target, family: Family) -> Door:
        found = self.dns(family)
        address, behind = found or (None, ())
        return Door(
            end=End("kube-dns", "kube-dns", Site("pod", ""), address),
            port=target.port or 53,
            protocol=Protocol.UDP if target.port is None else target.protocol,
            serve=Serve.DNS.value,
            behind=behind,
            port_label=f":{target.port or 53}/{Protocol.UDP if target.port is None else target.protocol}",
            triple_port=target.port or 53,
        )

    def _service_doors(self, spec: ServiceSpec, target: Target, family: Family) -> Iterator[Door]:
        name = f"service/{spec.name}" if spec.namespace == self._case.namespace else f"service/{spec.namespace}/{spec.name}"
        port = next((each for each in spec.ports if each.port == target.port and each.protocol is target.protocol), None)
        if port is None or target.port is None:
            yield Door(End(name, str(target.party), Site("pod", ""), None), 0, target.protocol, fault=f"{name} has no port {target.port}")
            return
        behind: list[tuple[Server, End]] = []
        also: list[tuple[str, int]] = []
        for endpoint in self._case.endpoints.values():
            if endpoint.namespace != spec.namespace or any(endpoint.labels.get(key) != value for key, value in spec.selector.items()):
                continue
            declared = (each for each in endpoint.ports if each.protocol is port.protocol)
            served = next((each for each in declared if port.target_port in (each.port, each.name)), None)
            number = served.port if served else port.target_port
            for end in self._endpoint(endpoint, family):
                if end.address is not None and isinstance(number, int):
                    serve = served.serve.value if served else Serve.AUTO.value
                    behind.append((Server(self._pod_name(end), end.site, end.address, target.protocol, number, serve), end))
                    also.append((end.key, number))
        address = self._placement.address(f"service:{spec.namespace}/{spec.name}", family)
        serve = behind[0][0].serve if behind else Serve.AUTO.value
        label = f":{target.port}/{target.protocol}"
        if not spec.headless:
            end = End(name, str(target.party), Site("pod", ""), address)
            yield Door(end, target.port, target.protocol, serve, tuple(behind), label, target.port, also=tuple(also))
            return
        # A headless service is its backends' addresses; the client's port is the one that is dialled there.
        for server, end in behind:
            reached = replace(server, port=target.port)
            yield Door(
                replace(end, label=f"{name} ({end.label})"), target.port, target.protocol, serve, ((reached, end),), label, target.port
            )

    def _name_doors(self, target: Target, family: Family, request: Request | None) -> Iterator[Door]:
        """What a DNS name leads to: an external that has it, or a service by its cluster name. The client asks first."""
        name = target.party.name.rstrip(".").lower()
        for spec in self._case.externals.values():
            if name in (each.rstrip(".").lower() for each in spec.names):
                door = self._external_door(spec, target, family, request)
                yield replace(door, end=replace(door.end, label=target.party.name), lookup=name)
                return
        parts = name.removesuffix(f".{CLUSTER_DOMAIN}").split(".")
        service = self._case.services.get(f"{parts[1]}/{parts[0]}") if len(parts) == 3 and parts[2] == "svc" else None
        if service is not None:
            for door in self._service_doors(service, target, family):
                yield replace(door, end=replace(door.end, label=target.party.name), lookup=name)
            return
        end = End(target.party.name, name, Site("pod", ""), None)
        yield Door(end, target.port or 0, target.protocol, fault=f"nothing in the case has the name {name}", lookup=name)


def _outside(label: str, key: str, address: str | None) -> End:
    fixed = External(address) if address is not None else None
    return End(label, key, Site("world", address or ""), address, fixed=fixed)


def _port(ports: Sequence[PortSpec], target: Target) -> PortSpec | None:
    return next((each for each in ports if each.port == target.port and each.protocol is target.protocol), None)


def _door(end: End, target: Target, family: Family, request: Request | None, port: PortSpec | None, server: str) -> Door:
    """A target that is dialled at its own address."""
    serve = port.serve.value if port else Serve.AUTO.value
    if request is not None and request.kind in (RequestKind.ICMP, RequestKind.ICMP6):
        protocol, number = (Protocol.ICMP, ICMP_ECHO) if family is Family.IPV4 else (Protocol.ICMPV6, ICMPV6_ECHO)
        label, triple_port = "", None
    else:
        protocol, number = target.protocol, target.port or 0
        label, triple_port = f":{number}/{protocol}", number
    behind = ((Server(server, end.site, end.address, protocol, number, serve), end),) if server and end.address is not None else ()
    return Door(end, number, protocol, serve, behind, label, triple_port)
