"""Implements the cluster contract with the policy model: no packet is sent, and no report may hide that."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import count

from msgspec.structs import replace

from harness.cases.case import Case, Placement
from harness.clusters.base import Capabilities, Change, Enforcement, Observation
from harness.clusters.memory.landscape import Landscape, Machine, landscape
from harness.clusters.memory.simulate import Route, simulate
from harness.errors import ClusterError
from harness.model.flow import FiveTuple
from harness.model.probe import Ending, Probe, ProbeResult
from harness.model.traffic import Family, Protocol, RequestKind, Traffic
from harness.model.verdict import PolicyRef, PolicyStatus, PolicyVerdict, Verdict
from harness.policy.evaluate import Evaluator
from harness.policy.options import DEFAULT_CILIUM, Options
from harness.policy.repository import Repository

FEATURES = frozenset({
    "l7-http",
    "l7-dns",
    "fqdn",
    "tls-sni",
    "auth",
    "audit",
    "icmp",
    "sctp",
    "ipv4",
    "ipv6",
    "services",
    "to-services",
    "cidr-group",
    "host-firewall",
    "host-endpoints",
    "externals",
    "external-sources",
    "kube-apiserver",
    "grpc",
    "clusterwide",
    "nodes-2",
})
LACKING = {
    "spire": "nothing authenticates in the model",
    "wireguard": "nothing is sent, so nothing is encrypted",
    "ipsec": "nothing is sent, so nothing is encrypted",
    "kube-proxy-replacement": "there is no datapath in the model",
    "clustermesh": "the model has one cluster",
}
_FIRST_CLIENT_PORT = 32768


class MemoryCluster:
    """The `memory` cluster. With `flows` false its observations carry none, as on a cluster without Hubble."""

    name = "memory"
    simulated = True

    def __init__(self, *, cilium: str = DEFAULT_CILIUM, flows: bool = True) -> None:
        self.capabilities = Capabilities(cilium, FEATURES, LACKING)
        self._options = Options.of(cilium, host_firewall=True)
        self._with_flows = flows
        self._revision = 0
        self._turns = count()
        self._land: Landscape | None = None
        self._audit = False
        self._repository = Repository.empty(self._options)
        self._evaluators: dict[str, Evaluator] = {}
        self._learned: dict[str, dict[str, set[str]]] = {}
        """What the DNS proxy of each node learned: the names of each address. Nothing expires, since no time passes."""

    def capabilities_for(self, case: Case) -> Capabilities:
        """Without names that are to expire."""
        if all(external.ttl is None for external in case.externals.values()):
            return self.capabilities
        why = "no time passes in the model, so no name of a `ttl` expires"
        return replace(
            self.capabilities, features=self.capabilities.features - {"fqdn"}, lacking={**self.capabilities.lacking, "fqdn": why}
        )

    def prepare(self, case: Case) -> Placement:
        self.release()
        self._land = landscape(case)
        self._audit = case.asks_for("audit")
        return replace(self._land.placement, audited=self._audit)

    def apply(self, change: Change) -> int:
        self._here()
        self._repository = self._repository.change(change.remove, [policy.document for policy in change.apply])
        self._evaluators.clear()
        self._revision += 1
        return self._revision

    def wait(self, revision: int) -> Enforcement:
        if revision > self._revision:
            raise ClusterError(f"revision {revision} was never applied; the latest is {self._revision}")
        return Enforcement("simulated: the model is changed at once", 0.0)

    def probe(self, plan: Sequence[Probe]) -> Iterator[Observation]:
        land = self._here()
        for probe in plan:
            yield self._observe(land, probe)

    def status(self, policies: Sequence[PolicyRef]) -> Mapping[PolicyRef, PolicyStatus]:
        evaluator = self._model()
        return {ref: evaluator.status(ref) for ref in policies}

    def flows(self) -> str | None:
        """None: the flows are made up with each probe, and nobody serves them."""

    def release(self) -> None:
        self._land = None
        self._evaluators.clear()
        self._learned.clear()
        self._repository = Repository.empty(self._options)

    def close(self) -> None:
        self.release()

    def _here(self) -> Landscape:
        if self._land is None:
            raise ClusterError("no case is prepared")
        return self._land

    def _model(self, node: str = "") -> Evaluator:
        """The model as one node sees it: with the names that its DNS proxy learned."""
        if node not in self._evaluators:
            self._evaluators[node] = Evaluator(self._here().placement.state, self._repository, self._learned.get(node))
        return self._evaluators[node]

    def _learn(self, land: Landscape, probe: Probe, node: str, verdict: PolicyVerdict) -> None:
        """A lookup that the proxy let pass teaches it the addresses of the name."""
        request = probe.request
        passed = verdict.egress.redirected and verdict.verdict is Verdict.ALLOW
        if request is None or request.kind is not RequestKind.LOOKUP or not passed:
            return
        name = request.name.rstrip(".").lower()
        for host in land.placement.state.externals:
            if Family.of(host.address) is probe.family and name in (each.rstrip(".").lower() for each in host.names):
                names = self._learned.setdefault(node, {}).setdefault(host.address, set())
                if name not in names:
                    names.add(name)
                    self._evaluators.pop(node, None)

    def _observe(self, land: Landscape, probe: Probe) -> Observation:
        now = time.time_ns()
        source = land.sender(probe.site)
        found = self._destination(land, probe)
        if found is None:
            return Observation(probe, ProbeResult(probe.id, Ending.TIMEOUT, now, now, detail="simulated: nothing has this address"))
        machine, port, service = found
        route = self._route(probe, source, machine, port, service)
        if source is machine or probe.liveness:
            # Loopback: no policy is asked, and no flow is seen.
            alive = route.serve is not None
            result = ProbeResult(
                probe.id,
                Ending.ANSWERED if alive and route.serve != "sink" else Ending.TIMEOUT if alive else Ending.REFUSED,
                now,
                now,
                route.dialled,
                machine.server if alive else "",
                probe.nonce if alive else "",
                server_saw=alive,
                detail="simulated",
            )
            return Observation(probe, result, flows_on=self._with_flows)
        traffic = Traffic(
            source.peer(machine, probe.family), machine.peer(source, probe.family), probe.protocol, port, probe.spoken, probe.family
        )
        node = source.node or ""
        verdict = self._model(node).verdict(traffic)
        self._learn(land, probe, node, verdict)
        result, flows = simulate(probe, route, verdict, now, audit=self._audit)
        return Observation(probe, result, flows if self._with_flows else (), flows_on=self._with_flows)

    def _destination(self, land: Landscape, probe: Probe) -> tuple[Machine, int, str] | None:
        """What answers at the dialled address: directly, or the next backend of a service."""
        service = land.services.get(probe.address)
        if service is not None:
            backends = service.ports.get((probe.protocol, probe.port), ())
            if not backends:
                return None
            machine, port = backends[next(self._turns) % len(backends)]
            return machine, port, service.name
        for machine in land.sharing.get(probe.address, ()):
            if machine.serve(probe.protocol, probe.port) not in (None, "icmp"):
                return machine, probe.port, ""
        found = land.machines.get(probe.address)
        return (found, probe.port, "") if found is not None else None

    def _route(self, probe: Probe, source: Machine, machine: Machine, port: int, service: str) -> Route:
        own = probe.source_address or source.address(probe.family)
        client_port = _FIRST_CLIENT_PORT + probe.id % 28000 if probe.protocol.has_ports else 0
        dialled = FiveTuple(probe.protocol, own, client_port, probe.address, probe.port)
        translated = FiveTuple(probe.protocol, own, client_port, machine.address(probe.family), port) if service else dialled
        return Route(
            five_tuple=translated,
            dialled=dialled,
            source=source.endpoint,
            destination=machine.endpoint,
            source_node=source.node or "",
            destination_node=machine.node or "",
            server=machine.server if probe.protocol not in (Protocol.ICMP, Protocol.ICMPV6) else "",
            serve=machine.serve(probe.protocol, port),
            service=service,
            resolves=self._resolves(probe),
        )

    def _resolves(self, probe: Probe) -> bool:
        """Whether a looked-up name is one that the case has."""
        if probe.request is None or probe.request.kind is not RequestKind.LOOKUP:
            return True
        name = probe.request.name.rstrip(".").lower()
        state = self._here().placement.state
        names = {each.rstrip(".").lower() for host in state.externals for each in host.names}
        names.update(f"{each.name}.{each.namespace}.svc.cluster.local" for each in state.services)
        return name in names or f"{name}.cluster.local" in names
