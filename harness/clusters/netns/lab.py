"""The lab: a small Cilium of two nodes or more in one process. Deploys a case, enforces its policies, sends its probes, serves its flows.

Runs in the lab's own process (`__main__` starts it there); tests see it through `cluster`.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from harness.clusters.netns import speech, tls
from harness.clusters.netns.clients import Clients
from harness.clusters.netns.dns import records as dns_records
from harness.clusters.netns.dns.proxy import DnsProxies, Heard
from harness.clusters.netns.dns.zone import zone
from harness.clusters.netns.enforcer import Enforcer
from harness.clusters.netns.filter import NodeFilter
from harness.clusters.netns.flows import FlowMaker
from harness.clusters.netns.kernel import Namespace
from harness.clusters.netns.machine import sctp_here, sockets
from harness.clusters.netns.nflog import Connections, PacketLog
from harness.clusters.netns.placed import NOTHING, Placed
from harness.clusters.netns.proxy import records
from harness.clusters.netns.proxy.envoy import executable
from harness.clusters.netns.proxy.proxies import Proxies
from harness.clusters.netns.proxy.redirection import Redirection
from harness.clusters.netns.reactor import Reactor
from harness.clusters.netns.redirect import ProxyPort, ProxyPorts
from harness.clusters.netns.servers import Served, Servers
from harness.clusters.netns.topology import Host, Topology, ipv6_here
from harness.clusters.netns.wire import Deployment
from harness.hubble.server import FlowStore
from harness.model.cluster import ClusterState
from harness.model.flow import Flow, LostEvents
from harness.model.probe import Probe, Site
from harness.model.traffic import Family, RequestKind
from harness.model.verdict import PolicyRef, PolicyStatus
from harness.policy.options import Options
from harness.probes.agent import AgentEvent


class Lab:
    """Made once per process, on its event loop. Public methods are the calls that come over the wire; they raise ClusterError."""

    def __init__(self, *, options: Options, pods: int, emit: Callable[[AgentEvent], None], store: FlowStore | None, folder: Path) -> None:
        """`pods` are made ready on each of the first two nodes. Without a `store`, packets are counted and no flows are made. `folder` is
        for sockets and logs of proxies; it is emptied by who made it."""
        self._options = replace(options, ipv6=ipv6_here())
        self._reactor = Reactor()
        self._store = store
        self._topology = Topology(ipv6=self._options.ipv6)
        self._filters: dict[str, NodeFilter] = {}
        self._logs: dict[str, PacketLog] = {}
        self._connections: dict[str, Connections] = {}
        self._servers = Servers(self._reactor, self._saw, folder)
        self._clients = Clients(self._reactor, self.place, self._servers.seen, self._servers.grpc, emit, limit=sockets() // 4)
        self._loop = asyncio.get_running_loop()
        self._discarded: set[int] = set()
        self._ports = ProxyPorts()
        self._proxies = Proxies(folder, self._logged, self._lost, ipv6=self._options.ipv6)
        self._dns = DnsProxies(self._dns_heard, ipv6=self._options.ipv6)
        redirection = Redirection(self._ports, self._proxies, self._dns, self._filters, self._topology)
        self._nothing = self._placed = Placed(NOTHING, self._topology)
        self._enforcer = Enforcer(self._options, self._nothing, self._topology, self._filters, redirection)
        self._flows = FlowMaker(self._enforcer.snapshot, self._publish)
        for name in ("a", "b"):
            self._node(name)
            self._topology.add_pods(name, pods)
            self._filters[name].hairpin({slot.link: slot.addresses for slot in self._topology.nodes[name].slots})

    def _node(self, name: str) -> Host:
        """A node with its filter and log, made when first needed."""
        node = self._topology.node(name)
        if name not in self._filters:
            self._filters[name] = NodeFilter(node.namespace, node.name, self._ports, ipv6=self._options.ipv6)
            self._connections[name] = Connections(node.namespace)
            self._logs[name] = log = PacketLog(node.namespace, lambda: self._flows.lost(name))
            # Straight on the loop, beside the reactor: it is read before the sockets whose packets it tells of.
            self._loop.add_reader(log.fileno(), self._read_logs)
        return node

    # Calls

    def about(self) -> Mapping[str, Any]:
        """What the other side must know of this lab."""
        return {"pid": os.getpid(), "ipv6": self._options.ipv6, "sctp": sctp_here(), "envoy": executable() is not None}

    def prepare(self, deployment: Deployment) -> Mapping[str, tuple[str, ...]]:
        """Deploy a case; the former one is gone first. Returns every address, by the keys of `Placement.addresses`."""
        if self._placed is not self._nothing:
            self.release()
        state = deployment.state
        for name in sorted({*state.nodes, *(pod.node for pod in state.pods)}):
            self._node(name)
        self._make_room(state)
        self._placed = placed = Placed(state, self._topology)
        found = placed.addresses(deployment.externals)
        for served, namespace in placed.served(deployment.ports, found):
            self._servers.open(served, namespace)
        self._servers.names = zone(state, found)
        # Every node translates them for itself.
        forwardings = tuple(placed.forwardings(found))
        for filter_ in self._filters.values():
            filter_.serve(forwardings)
        self._enforcer.begin(placed, audit=deployment.audit)
        return found

    async def apply(self, remove: Sequence[PolicyRef], documents: Sequence[Mapping[str, Any]]) -> int:
        """Change the policies; they are enforced, by packet filter and proxies, when this returns. The number of the new revision."""
        return await self._enforcer.apply(remove, documents)

    def status(self, policies: Sequence[PolicyRef]) -> Mapping[PolicyRef, PolicyStatus]:
        return self._enforcer.status(policies)

    def run(self, probes: Sequence[Probe]) -> None:
        """Send probes; what happens to them is told by events."""
        self._proxies.check()
        self._dns.check()
        if any(speech.speaks(probe) is RequestKind.TLS for probe in probes):
            tls.prepare()
        self._open_built_ins(probes)
        self._clients.run(probes)

    def stop(self, probe_id: int) -> None:
        self._clients.stop(probe_id)

    def release(self) -> None:
        """End the case: nothing of it is served, enforced or remembered."""
        self._clients.clear()
        self._servers.close()
        self._read_logs()
        self._dns.close()
        self._discarded.clear()
        for name, filter_ in self._filters.items():
            filter_.serve(())
            self._connections[name].forget()
        self._enforcer.end(self._nothing)
        self._placed.leave()
        self._placed = self._nothing

    # Calls that break things on purpose, for tests of whether that is noticed

    def fault_close(self, server: str, port: int | None = None) -> int:
        """A server dies, or one of its ports. How many sockets that was."""
        found = self._servers.find(server, port=port)
        self._servers.close(found)
        return len(found)

    def fault_discard_flows(self, port: int) -> None:
        """Flows towards this port vanish from now on, until the case ends."""
        self._discarded.add(port)

    def fault_lose_events(self, number: int) -> None:
        """The kernel says that it lost events."""
        for name in list(self._logs)[:1] * number:
            self._flows.lost(name)

    def fault_kill_proxy(self, node: str) -> None:
        """The node's proxy dies."""
        os.kill(self._proxies.pids[node], signal.SIGKILL)

    def fault_kill_dns_proxy(self, node: str) -> None:
        """The node's DNS proxy dies."""
        self._dns.kill(node)

    async def fault_expire_names(self) -> None:
        """Every name's time is over."""
        await self._enforcer.forget(math.inf)

    def proxies(self) -> Mapping[str, int]:
        """The process of each node's proxy, where it has one."""
        return self._proxies.pids

    def ruleset(self, node: str) -> str:
        """A node's packet filter as text."""
        return self._filters[node].listed()

    def namespaces(self) -> Mapping[str, int]:
        """The network namespaces of the case's pods, of the nodes and of what is outside, as descriptors of this process."""
        return {name: namespace.fd for name, namespace in self._placed.namespaces.items()}

    async def published(self) -> int:
        """How many flows were told since the start, with those of every packet until now."""
        if self._store is None:
            return 0
        await self._proxies.catch_up()
        while self._flows.read(self._logs):
            pass
        return self._store.seen_flows

    def counters(self) -> Mapping[str, int]:
        return {"logged": sum(log.logged for log in self._logs.values()), "lost": sum(log.losses for log in self._logs.values())}

    async def hang_up(self) -> None:
        """End the talks that take a while to end, before `close`."""
        await self._servers.grpc.close()

    def close(self) -> None:
        self._clients.clear()
        self._servers.close()
        self._proxies.close()
        self._dns.close()
        self._enforcer.close()
        for name, log in self._logs.items():
            self._loop.remove_reader(log.fileno())
            log.close()
            self._filters[name].close()
            self._connections[name].close()
        self._reactor.close()
        self._topology.close()

    # Deploying

    def _make_room(self, state: ClusterState) -> None:
        """More pods on the nodes where the case has more than are free."""
        wanted = Counter(pod.node for pod in state.pods if not pod.host_network)
        for name, number in wanted.items():
            node = self._topology.nodes[name]
            missing = number - len(node.free)
            if missing > 0:
                self._topology.add_pods(name, missing)
                self._filters[name].hairpin({slot.link: slot.addresses for slot in node.slots[-missing:]})

    def _open_built_ins(self, probes: Sequence[Probe]) -> None:
        """World, nodes and the API server's host serve whatever they are probed on."""
        hosts = {address: host for host in self._topology.hosts.values() for address in host.addresses}
        for probe in probes:
            host = hosts.get(probe.address)
            if host is None or host.name not in probe.expected_servers or not probe.protocol.has_ports:
                continue
            if not any(each.address == probe.address for each in self._servers.find(host.name, probe.protocol, probe.port)):
                self._servers.open(Served(host.name, probe.address, probe.protocol, probe.port), host.namespace)

    # What proxies tell

    def _logged(self, node: str, port: ProxyPort, fields: Mapping[str, Any]) -> None:
        """A proxy tells of a request: after what its packets told before."""
        self._read_logs()
        line = records.Line(node, port, fields)
        for flow in records.flows(line, self._enforcer.current, self._flows.origins, self._flows.now(f"node-{node}")):
            self._flows.emit(replace(flow, uuid=self._flows.uuid()))

    async def _dns_heard(self, heard: Heard) -> None:
        """A DNS proxy tells of a question, or of an answer that its client does not have yet: what it opens is open when this returns."""
        said = heard.said
        if said.response and said.addresses and said.rcode == 0:
            await self._enforcer.learn(heard.node, said.name, said.addresses, said.ttl)
        self._read_logs()
        flow = dns_records.flow(heard, self._enforcer.current, self._flows.now(f"node-{heard.node}"))
        self._flows.emit(replace(flow, uuid=self._flows.uuid()))

    # Probing

    def _read_logs(self) -> None:
        if self._store is None:
            for log in self._logs.values():
                log.read()
            return
        if self._flows.read(self._logs):
            self._loop.call_soon(self._read_logs)

    def place(self, site: Site, family: Family) -> tuple[Namespace, str]:
        """Where code at this site runs, and the address it has there. Raises ClusterError for a site that is not in the case."""
        return self._placed.place(site, family)

    def _saw(self, nonce: str, server: str) -> None:
        self._clients.saw(nonce, server)

    def _lost(self, node: str) -> None:
        self._flows.lost(node)

    def _publish(self, event: Flow | LostEvents) -> None:
        if isinstance(event, Flow) and event.five_tuple.destination_port in self._discarded:
            return
        if self._store is not None:
            self._store.publish(event)
