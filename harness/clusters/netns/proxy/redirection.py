"""Which proxy ports the nodes of a lab need for what is to be enforced, and that they are there before anything is redirected to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.clusters.netns import addresses
from harness.clusters.netns.dns.proxy import DnsProxies
from harness.clusters.netns.filter import NodeFilter
from harness.clusters.netns.proxy.proxies import Proxies, unsupported
from harness.clusters.netns.redirect import ROUTING_TABLE, ProxyPort, ProxyPorts, own_ports
from harness.clusters.netns.ruleset import DELIVER
from harness.clusters.netns.topology import Topology
from harness.model.traffic import Direction
from harness.policy.map import EndpointPolicy


class Redirection:
    """`filters` are those of all nodes, by name. Policies come as pairs of a node and what is enforced for one of its pods."""

    def __init__(self, ports: ProxyPorts, proxies: Proxies, dns: DnsProxies, filters: Mapping[str, NodeFilter], topology: Topology) -> None:
        self._ports = ports
        self._proxies = proxies
        self._dns = dns
        self._filters = filters
        self._topology = topology
        self._prepared: set[str] = set()

    def check(self, policies: Iterable[tuple[str, EndpointPolicy]]) -> None:
        """Raises ClusterError for rules that the proxies would leave half enforced."""
        for ports in self._wanted(policies).values():
            for port in ports:
                if error := unsupported(port):
                    raise error

    async def serve(self, policies: Iterable[tuple[str, EndpointPolicy]]) -> None:
        """Have a proxy ready wherever packets are about to be redirected to one. Raises ClusterError where there is none."""
        for node, ports in self._wanted(policies).items():
            if ports and node not in self._prepared:
                own = own_ports(addresses.node_index(node))
                self._filters[node].redirect(own)
                self._topology.deliver_marked(node, DELIVER, ROUTING_TABLE, own)
                self._prepared.add(node)
            namespace = self._topology.nodes[node].namespace
            self._dns.serve(node, namespace, [port for port in ports if port.redirect == "dns"])
            await self._proxies.serve(node, namespace, [port for port in ports if port.redirect != "dns"])

    def _wanted(self, policies: Iterable[tuple[str, EndpointPolicy]]) -> Mapping[str, set[ProxyPort]]:
        wanted: dict[str, set[ProxyPort]] = {name: set() for name in self._filters}
        # Equal endpoints share their policy.
        for node, endpoint in {(node, id(endpoint)): (node, endpoint) for node, endpoint in policies}.values():
            for direction, policy in ((Direction.EGRESS, endpoint.egress), (Direction.INGRESS, endpoint.ingress)):
                wanted[node].update(port for _, _, port in self._ports.of(policy, direction))
        return wanted
