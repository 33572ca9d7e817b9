"""The lab: a small Cilium of two nodes or more in one process. Deploys a case, enforces its policies, sends its probes, serves its flows.

Runs in the lab's own process (`__main__` starts it there); tests see it through `cluster`.
"""

from __future__ import annotations

import asyncio
import math
import os
import resource
import signal
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.clusters.netns import addresses, speech, tls
from harness.clusters.netns.clients import Clients
from harness.clusters.netns.dns import local
from harness.clusters.netns.dns import records as dns_records
from harness.clusters.netns.dns.learned import Learned
from harness.clusters.netns.dns.local import Local
from harness.clusters.netns.dns.proxy import DnsProxies, Heard
from harness.clusters.netns.dns.zone import zone
from harness.clusters.netns.enforced import Enforced, enforced
from harness.clusters.netns.filter import NodeFilter, Wanted
from harness.clusters.netns.flows import FlowMaker
from harness.clusters.netns.kernel import Namespace
from harness.clusters.netns.nflog import Connections, PacketLog
from harness.clusters.netns.proxy import records
from harness.clusters.netns.proxy.envoy import executable
from harness.clusters.netns.proxy.proxies import Proxies
from harness.clusters.netns.proxy.redirection import Redirection
from harness.clusters.netns.reactor import Reactor
from harness.clusters.netns.redirect import ProxyPort, ProxyPorts
from harness.clusters.netns.ruleset import Forwarding
from harness.clusters.netns.servers import Served, Servers
from harness.clusters.netns.snapshot import PodPlace, Snapshot
from harness.clusters.netns.topology import Host, PodSlot, Topology, ipv6_here
from harness.clusters.netns.wire import Deployment
from harness.errors import ClusterError
from harness.hubble.server import FlowStore
from harness.model.cluster import LOCAL_CLUSTER, ClusterState, Pod, Service
from harness.model.flow import Flow, LostEvents
from harness.model.probe import Probe, Site
from harness.model.traffic import Family, PodRef, Protocol, RequestKind
from harness.model.verdict import PolicyRef, PolicyStatus
from harness.policy.options import Options
from harness.policy.repository import Repository
from harness.probes.agent import AgentEvent

_EMPTY = ClusterState(namespaces={}, pods=())
_REVISIONS_KEPT = 8


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
        self._snapshots: dict[int, Snapshot] = {}
        self._flows = FlowMaker(self._snapshots.get, self._publish)
        self._servers = Servers(self._reactor, self._saw, folder)
        self._clients = Clients(self._reactor, self.place, self._servers.seen, self._servers.grpc, emit, limit=_sockets() // 4)
        self._loop = asyncio.get_running_loop()
        self._discarded: set[int] = set()
        self._ports = ProxyPorts()
        self._proxies = Proxies(folder, self._logged, self._flows.lost, ipv6=self._options.ipv6)
        self._dns = DnsProxies(self._dns_heard, ipv6=self._options.ipv6)
        self._learned = Learned()
        self._forgetting: asyncio.TimerHandle | None = None
        self._forgets: set[asyncio.Task[None]] = set()
        self._redirection = Redirection(self._ports, self._proxies, self._dns, self._filters, self._topology)
        self._changing = asyncio.Lock()
        self._revision = 0
        for name in ("a", "b"):
            self._node(name)
            self._topology.add_pods(name, pods)
            self._filters[name].hairpin({slot.link: slot.addresses for slot in self._topology.nodes[name].slots})
        self._empty()

    def _empty(self) -> None:
        self._state = _EMPTY
        self._pods: dict[PodRef, Pod] = {}
        self._slots: dict[PodRef, PodSlot] = {}
        self._sites: dict[tuple[Site, Family], tuple[Namespace, str]] = {}
        self._repository = Repository.empty(self._options)
        self._local = local.compiled(self._state, self._repository, self._learned, ())
        self._enforced = Enforced()

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
        return {"pid": os.getpid(), "ipv6": self._options.ipv6, "sctp": _sctp_here(), "envoy": executable() is not None}

    def prepare(self, deployment: Deployment) -> Mapping[str, tuple[str, ...]]:
        """Deploy a case; the former one is gone first. Returns every address, by the keys of `Placement.addresses`."""
        if self._state is not _EMPTY:
            self.release()
        state = deployment.state
        self._state = state
        self._pods = {pod.ref: pod for pod in state.pods}
        for name in sorted({*state.nodes, *(pod.node for pod in state.pods)}):
            self._node(name)
        self._take_slots(state)
        found = {f"pod:{ref}": self._host_of(pod).addresses for ref, pod in self._pods.items()}
        self._topology.take_on(address for own in deployment.externals.values() for address in own)
        found |= {
            f"external:{name}": tuple(address for address in own if self._options.ipv6 or ":" not in address)
            for name, own in deployment.externals.items()
        }
        for port in deployment.ports:
            if port.pod is not None:
                host: Host | PodSlot = self._host_of(self._pods[port.pod])
                own, name = host.addresses, str(port.pod)
            else:
                host, own, name = self._topology.world, found[f"external:{port.external}"], port.external
            for address in own:
                self._servers.open(Served(name, address, port.protocol, port.port, port.serve), host.namespace)
        found |= self._serve_services(state.services)
        found |= {f"node:{name}": node.addresses for name, node in self._topology.nodes.items() if name in {"a", "b", *state.nodes}}
        found["world"] = self._topology.world.addresses
        found["kube-apiserver"] = self._topology.kube_apiserver.addresses
        self._repository = Repository.empty(replace(self._options, audit=deployment.audit))
        self._servers.names = zone(state, found)
        self._local = local.compiled(state, self._repository, self._learned, ())
        self._enforce(self._local, self._enforceable(self._local))
        return found

    async def apply(self, remove: Sequence[PolicyRef], documents: Sequence[Mapping[str, Any]]) -> int:
        """Change the policies; they are enforced, by packet filter and proxies, when this returns. The number of the new revision."""
        async with self._changing:
            repository = self._repository.change(remove, documents)
            await self._change(repository, local.compiled(self._state, repository, self._learned, self._filters))
            return self._revision

    def status(self, policies: Sequence[PolicyRef]) -> Mapping[PolicyRef, PolicyStatus]:
        return {ref: self._local.evaluator.status(ref) for ref in policies}

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
        self._learned.clear()
        self._discarded.clear()
        for name, filter_ in self._filters.items():
            filter_.serve(())
            filter_.change(Wanted(self._revision, {}, {}, {}))
            self._connections[name].forget()
        self._topology.give_back(self._slots.values())
        self._empty()

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
        await self._forget(math.inf)

    def proxies(self) -> Mapping[str, int]:
        """The process of each node's proxy, where it has one."""
        return self._proxies.pids

    def ruleset(self, node: str) -> str:
        """A node's packet filter as text."""
        return self._filters[node].listed()

    def namespaces(self) -> Mapping[str, int]:
        """The network namespaces of the case's pods, of the nodes and of what is outside, as descriptors of this process."""
        return {
            **{f"pod {ref}": slot.namespace.fd for ref, slot in self._slots.items()},
            **{f"node {name}": node.namespace.fd for name, node in self._topology.nodes.items()},
            **{host.name: host.namespace.fd for host in (self._topology.world, self._topology.kube_apiserver)},
        }

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
        if self._forgetting is not None:
            self._forgetting.cancel()
        for name, log in self._logs.items():
            self._loop.remove_reader(log.fileno())
            log.close()
            self._filters[name].close()
            self._connections[name].close()
        self._reactor.close()
        self._topology.close()

    # Deploying

    def _take_slots(self, state: ClusterState) -> None:
        wanted = Counter(pod.node for pod in state.pods if not pod.host_network)
        for name, number in wanted.items():
            node = self._topology.nodes[name]
            missing = number - len(node.free)
            if missing > 0:
                self._topology.add_pods(name, missing)
                self._filters[name].hairpin({slot.link: slot.addresses for slot in node.slots[-missing:]})
        self._slots = {pod.ref: self._topology.take(pod.node) for pod in state.pods if not pod.host_network}

    def _host_of(self, pod: Pod) -> Host | PodSlot:
        return self._topology.nodes[pod.node] if pod.host_network else self._slots[pod.ref]

    def _serve_services(self, services: Sequence[Service]) -> dict[str, tuple[str, ...]]:
        """Give each service its address and let every node translate it. What has no backend is translated to nothing."""
        found: dict[str, tuple[str, ...]] = {}
        forwardings: list[Forwarding] = []
        for slot, service in enumerate(services):
            if service.headless:
                continue
            own = tuple(address for address in addresses.service(slot) if self._options.ipv6 or ":" not in address)
            found[f"service:{service.namespace}/{service.name}"] = own
            behind = [pod for pod in self._state.pods if _selects(service, pod)]
            for address in own:
                for port in service.ports:
                    backends = tuple(
                        (each, number)
                        for pod in behind
                        if (number := _target_port(pod, port.target_port, port.protocol)) is not None
                        for each in self._host_of(pod).addresses
                        if (":" in each) == (":" in address)
                    )
                    if backends:
                        forwardings.append(Forwarding(address, port.protocol.number, port.port, backends))
        for filter_ in self._filters.values():
            filter_.serve(forwardings)
        return found

    def _open_built_ins(self, probes: Sequence[Probe]) -> None:
        """World, nodes and the API server's host serve whatever they are probed on."""
        hosts = {address: host for host in self._topology.hosts.values() for address in host.addresses}
        for probe in probes:
            host = hosts.get(probe.address)
            if host is None or host.name not in probe.expected_servers or not probe.protocol.has_ports:
                continue
            if not any(each.address == probe.address for each in self._servers.find(host.name, probe.protocol, probe.port)):
                self._servers.open(Served(host.name, probe.address, probe.protocol, probe.port), host.namespace)

    # Enforcing

    def _enforceable(self, new: Local) -> Enforced:
        """What is to be in force. Raises ClusterError for rules that the lab would leave half enforced."""
        found = enforced(new, {ref: slot.node for ref, slot in self._slots.items()}, self._filters, self._enforced)
        self._redirection.check(found.at_nodes())
        return found

    def _logged(self, node: str, port: ProxyPort, fields: Mapping[str, Any]) -> None:
        """A proxy tells of a request: after what its packets told before."""
        self._read_logs()
        snapshot = self._snapshots[self._revision]
        line = records.Line(node, port, fields)
        for flow in records.flows(line, snapshot, self._flows.origins, self._flows.now(f"node-{node}")):
            self._flows.emit(replace(flow, uuid=self._flows.uuid()))

    async def _change(self, repository: Repository, new: Local) -> None:
        found = self._enforceable(new)
        await self._redirection.serve(found.at_nodes())
        self._enforce(new, found)
        self._repository, self._local = repository, new

    async def _dns_heard(self, heard: Heard) -> None:
        """A DNS proxy tells of a question, or of an answer that its client does not have yet: what it opens is open when this returns."""
        said = heard.said
        if said.response and said.addresses and said.rcode == 0:
            self._learned.learn(heard.node, said.name, said.addresses, self._loop.time() + said.ttl)
            await self._relearn()
        self._read_logs()
        flow = dns_records.flow(heard, self._snapshots[self._revision], self._flows.now(f"node-{heard.node}"))
        self._flows.emit(replace(flow, uuid=self._flows.uuid()))

    async def _relearn(self) -> None:
        """Enforce what the names come to that are known now."""
        async with self._changing:
            new = local.compiled(self._state, self._repository, self._learned, self._filters, self._local)
            if new.names != self._local.names:
                await self._change(self._repository, new)
        until = self._learned.next_end()
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None
        if until is not None:
            self._forgetting = self._loop.call_at(until, self._forget_soon)

    def _forget_soon(self) -> None:
        task = self._loop.create_task(self._forget(self._loop.time()))
        self._forgets.add(task)
        task.add_done_callback(self._forgets.discard)

    async def _forget(self, now: float) -> None:
        if self._learned.forget(now):
            await self._relearn()

    def _enforce(self, new: Local, found: Enforced) -> None:
        self._revision += 1
        snapshot = Snapshot(
            revision=self._revision,
            cluster=LOCAL_CLUSTER,
            maps=new.maps,
            local=new.nodes,
            names=new.names,
            pods={
                ref: PodPlace(
                    slot.node, slot.link, slot.addresses, 1000 + slot.number * addresses.MAX_NODES + addresses.node_index(slot.node)
                )
                for ref, slot in self._slots.items()
            },
            nodes={name: node.addresses for name, node in self._topology.nodes.items()},
            kube_apiserver=self._topology.kube_apiserver.addresses,
            enforced=found,
        )
        self._snapshots[self._revision] = snapshot
        self._snapshots.pop(self._revision - _REVISIONS_KEPT, None)
        for name, filter_ in self._filters.items():
            filter_.change(
                Wanted(
                    self._revision,
                    snapshot.peers(name),
                    new.of(name).ipcache,
                    snapshot.links(name),
                    snapshot.link_addresses(name),
                    found.hosts.get(name),
                )
            )
        self._enforced = found

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

    def _saw(self, nonce: str, server: str) -> None:
        self._clients.saw(nonce, server)

    def _publish(self, event: Flow | LostEvents) -> None:
        if isinstance(event, Flow) and event.five_tuple.destination_port in self._discarded:
            return
        if self._store is not None:
            self._store.publish(event)


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


def _sockets() -> int:
    """How many this process may have open: as many as the machine lets it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def _sctp_here() -> bool:
    import socket

    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, Protocol.SCTP.number).close()
    except OSError:
        return False
    return True
