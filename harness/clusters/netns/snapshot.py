"""What a lab enforced at one revision, seen from each node: who has an address, and which rules decide a packet. A value."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec import Struct

from harness.clusters.netns.enforced import Enforced
from harness.model.flow import FlowEndpoint
from harness.model.identity import ReservedIdentity
from harness.model.labels import printed
from harness.model.traffic import Direction, PodRef
from harness.model.verdict import PolicyRef
from harness.policy.map import DirectionPolicy, EndpointPolicy, Interval, PolicyMaps

RESERVED = "reserved"
"""The policy kind of rules that Cilium adds itself: no policy of the user's decided there."""


class Party(Struct, frozen=True):
    """Who has an address, as one node sees it. `node` is where the pod runs, or the node itself, whose host it is; '' for everybody else."""

    address: str
    flow: FlowEndpoint
    pod: PodRef | None = None
    node: str = ""
    names: tuple[str, ...] = ()
    """What DNS taught the node of the address."""


class PodPlace(Struct, frozen=True):
    """Where a pod is."""

    node: str
    link: str
    addresses: tuple[str, ...]
    endpoint_id: int


@dataclass(slots=True)
class Snapshot:
    """`pods` are the Cilium endpoints (not host-network pods), `nodes` the nodes' own addresses."""

    revision: int
    cluster: str
    maps: PolicyMaps
    pods: Mapping[PodRef, PodPlace]
    nodes: Mapping[str, tuple[str, ...]]
    kube_apiserver: tuple[str, ...]
    enforced: Enforced
    local: Mapping[str, PolicyMaps] = field(default_factory=dict)
    """The maps of the nodes that learned names: those alone know the addresses' identities."""
    names: Mapping[str, Mapping[str, frozenset[str]]] = field(default_factory=dict)
    """Those names, by node and address."""
    _parties: dict[str, dict[bytes, Party]] = field(default_factory=dict)

    def of(self, node: str) -> PolicyMaps:
        """The maps that a node goes by."""
        return self.local.get(node, self.maps)

    def peers(self, node: str) -> Mapping[str, int]:
        """The identity of every exact address, as the node sees it."""
        out = {address: int(ReservedIdentity.KUBE_APISERVER) for address in self.kube_apiserver}
        for name, own in self.nodes.items():
            identity = ReservedIdentity.HOST if name == node else ReservedIdentity.REMOTE_NODE
            out.update(dict.fromkeys(own, int(identity)))
        for ref, place in self.pods.items():
            out.update(dict.fromkeys(place.addresses, self.maps.pods[ref]))
        return out

    def links(self, node: str) -> Mapping[str, EndpointPolicy]:
        """The policy of each of the node's pods, by its link."""
        return {place.link: self.enforced.pods[ref] for ref, place in self.pods.items() if place.node == node and ref in self.enforced.pods}

    def link_addresses(self, node: str) -> Mapping[str, tuple[str, ...]]:
        """The addresses of each of the node's pods, by its link."""
        return {place.link: place.addresses for place in self.pods.values() if place.node == node}

    def party(self, node: str, packed: bytes) -> Party:
        """Who has this address (as in a packet)."""
        known = self._parties.get(node)
        if known is None:
            known = self._parties[node] = self._known(node)
        found = known.get(packed)
        if found is None:
            found = known[packed] = self._outside(node, packed)
        return found

    def policy(self, party: Party, direction: Direction) -> DirectionPolicy | None:
        """The policy of a pod or a node's host in one direction, None where none is enforced."""
        endpoint = self.enforced.pods.get(party.pod) if party.pod is not None else self.enforced.hosts.get(party.node)
        if endpoint is None:
            return None
        policy = endpoint.ingress if direction is Direction.INGRESS else endpoint.egress
        return policy if policy.enforced else None

    def _known(self, node: str) -> dict[bytes, Party]:
        out: dict[bytes, Party] = {}
        for ref, place in self.pods.items():
            flow = FlowEndpoint(
                identity=self.maps.pods[ref],
                namespace=ref.namespace,
                pod=ref.name,
                labels=self._labels(self.maps.pods[ref]),
                cluster=self.cluster,
                id=place.endpoint_id,
            )
            for address in place.addresses:
                out[_packed(address)] = Party(address, flow, ref, place.node)
        for address, identity in self.peers(node).items():
            packed = _packed(address)
            if packed not in out:
                own = node if address in self.nodes.get(node, ()) else ""
                out[packed] = Party(address, FlowEndpoint(identity=identity, labels=self._labels(identity)), node=own)
        return out

    def _outside(self, node: str, packed: bytes) -> Party:
        address = ipaddress.ip_address(packed)
        maps = self.of(node)
        best = max(
            (network for network in map(ipaddress.ip_network, maps.ipcache) if network.version == address.version and address in network),
            key=lambda network: network.prefixlen,
            default=None,
        )
        identity = int(maps.ipcache[str(best)]) if best is not None else int(ReservedIdentity.UNKNOWN)
        known = maps.identities.get(identity)
        labels = printed(known.labels) if known is not None else ()
        names = tuple(sorted(self.names.get(node, {}).get(str(address), ())))
        return Party(str(address), FlowEndpoint(identity=identity, labels=labels), names=names)

    def _labels(self, identity: int) -> tuple[str, ...]:
        known = self.maps.identities.get(identity)
        return printed(known.labels) if known is not None else ()


def deciding(policy: DirectionPolicy, identity: int, protocol: int, port: int) -> Interval | None:
    """The interval that decides; None where it is the policy's default. The protocol's own come before those for every protocol."""
    any_protocol = None
    for interval in policy.by_identity.get(identity, ()):
        if interval.protocol == protocol and interval.first <= port <= interval.last:
            return interval
        if interval.protocol == 0:
            any_protocol = interval
    return any_protocol


def policies_of(interval: Interval | None) -> tuple[PolicyRef, ...]:
    """The user's policies whose rules make up an interval, each once."""
    if interval is None:
        return ()
    return tuple(dict.fromkeys(rule.policy for rule in interval.rules if rule.policy.kind != RESERVED))


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
