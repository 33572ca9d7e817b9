"""Any Kubernetes cluster with Cilium that a kubeconfig context leads to, as a place to run cases: the `existing` cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from harness.cases.case import Case, Placement
from harness.cases.resolver import asks_dns
from harness.cases.state import cluster_state, spread
from harness.clusters.base import Capabilities, Change, Enforcement, Observation
from harness.clusters.kubernetes import background, cidrgroups, lookups, permissions, places, stability
from harness.clusters.kubernetes.capabilities import AgentStatus, Facts, agent_pods, by_node, capabilities, read_config, version_of_image
from harness.clusters.kubernetes.client import API_ERRORS, Api, translated
from harness.clusters.kubernetes.deploy import delete_namespaces, deploy
from harness.clusters.kubernetes.enforcement import Agents
from harness.clusters.kubernetes.externals import Externals
from harness.clusters.kubernetes.flows import Flows
from harness.clusters.kubernetes.foreign import foreign
from harness.clusters.kubernetes.lifetime import Lifetime
from harness.clusters.kubernetes.objects import case_objects
from harness.clusters.kubernetes.pods import PodAgent
from harness.clusters.kubernetes.policies import Policies
from harness.clusters.kubernetes.rename import Renaming
from harness.clusters.kubernetes.resolver import Resolver
from harness.clusters.kubernetes.run import RunId
from harness.clusters.kubernetes.services import reachable
from harness.clusters.kubernetes.settle import Settling
from harness.clusters.kubernetes.wishes import PodOptions
from harness.clusters.observe import observe
from harness.errors import ClusterError, FlowsUnavailableError, ImageUnavailableError
from harness.model.cluster import CIDRGroup
from harness.model.probe import Probe
from harness.model.verdict import PolicyError, PolicyRef, PolicyStatus
from harness.policy.evaluate import Evaluator
from harness.policy.options import DEFAULT_CILIUM, Options
from harness.policy.repository import Repository

_GRACE = 0.2
_SETTLE = 3.0
_SKEW = 0.5
"""How far apart the clocks of nodes may be (s)."""
_BACK = 20.0
"""How long a lost stream of flows may take to come back before probes are sent without it (s): as long as Relay's pod takes to be replaced."""


class KubernetesOptions(Struct, frozen=True):
    """What a user may say. `cilium` is what to take for the version where the cluster does not say it; `flows`: whether to read any, and
    `require_flows`: whether it is an error when there are none."""

    context: str | None = None
    kubeconfig: str = ""
    """The file that has the context; '' for the user's own."""
    cilium: str = DEFAULT_CILIUM
    flows: bool = True
    require_flows: bool = False
    allow_host: bool = False
    allow_clusterwide: bool = False
    run: str = ""
    """What the workers of one run have in common and no other run has; '' for a run of one process."""
    worker: str = ""
    pods: PodOptions = field(default_factory=PodOptions)
    externals: Externals = field(default_factory=Externals)


@dataclass(slots=True)
class _Open:
    """The case that is deployed."""

    case: Case
    renaming: Renaming
    placement: Placement
    agent: PodAgent
    policies: Policies
    settling: Settling
    repository: Repository
    enforced: Repository
    """What was in force when that was last waited for."""


class KubernetesCluster:
    """Never deletes a cluster, nor anything that it did not create itself. What it creates carries the run's label."""

    name = "existing"
    simulated = False

    @translated("the cluster could not be opened")
    def __init__(self, options: KubernetesOptions | None = None) -> None:
        """Connects and looks around; creates nothing. ClusterError says what is missing."""
        self._options = options or KubernetesOptions()
        self._api = Api.connect(self._options.context, self._options.kubeconfig)
        needed = [*permissions.NEEDED, *(permissions.CLUSTERWIDE if self._options.allow_clusterwide else ())]
        needed += permissions.for_secrets(each.namespace for each in self._options.pods.pull_secrets if each.namespace)
        permissions.check(self._api, needed)
        self._secrets = self._pull_secrets()
        self.run = RunId.of(self._options.run, self._options.worker)
        self._lifetime = Lifetime(self._api, self.run)
        self._numbers = count(1)
        self._revision = 0
        self._open: _Open | None = None
        self._created: list[str] = []
        self._names: dict[tuple[str, frozenset[str]], str] = {}
        self._groups: list[CIDRGroup] = []
        self._no_image: ImageUnavailableError | None = None
        """What kept the first case from running keeps all others too: they do not wait for it again."""
        self._flows: Flows | None = None
        self.without_flows = ""
        """Why there are no flows, where there are none."""
        self._nodes = places.nodes_for(self._api, self._options.pods)
        agents = agent_pods(self._api)
        self._agents = Agents(self._api, by_node(agents))
        try:
            self._look_around(agents)
            self._connect_flows()
        except BaseException:
            self.close()
            raise
        self.notes = tuple(self._what_to_know())
        """What a reader of the run's reports must know of this cluster."""

    # The contract

    def capabilities_for(self, case: Case) -> Capabilities:
        """What it can do, externals included where the user mapped all that the case asks for."""
        externals = self._options.externals
        if not externals.mapped:
            return self.capabilities
        why = externals.lacking(case) or self._unknown_name(case)
        have, lack = self.capabilities.features, self.capabilities.lacking
        if why:
            return replace(self.capabilities, lacking={**lack, "externals": why})
        return replace(self.capabilities, features=have | {"externals"}, lacking={key: lack[key] for key in lack if key != "externals"})

    @translated("the case could not be deployed")
    def prepare(self, case: Case) -> Placement:
        """Deploy the case in namespaces of its own. What was created before a failure, or an interrupt, is deleted again."""
        self.release()
        if self._no_image is not None:
            raise self._no_image
        self._lifetime.begin()
        suffix = self.run.suffix(next(self._numbers))
        wide = {policy.ref.name for phase in case.phases for policy in phase.policies if not policy.ref.namespace}
        renaming = Renaming.of(case.namespaces, suffix, wide)
        # Fewer nodes than the case spreads over: a case that must have two says so, and is skipped.
        names = {abstract: self._nodes[place % len(self._nodes)].metadata.name for place, abstract in enumerate("abcdefghijklmnop")}
        placed = {ref: names[node] for ref, node in spread(case).items()}
        outside = self._options.externals.serves(case)
        dns = Resolver.find(self._api) if asks_dns(case) else None
        used = {*placed.values(), names["a"], names["b"]}
        objects = case_objects(
            case,
            renaming,
            self.run,
            placed,
            self._options.pods,
            allow_host=self._options.allow_host,
            nodes=used,
            witness=names["a"] if outside or dns else "",
            secrets=self._secrets,
        )
        self._created = [each["metadata"]["name"] for each in objects.namespaces]
        try:
            if self._options.allow_clusterwide:
                self._groups = [renaming.group(each) for each in case.cidr_groups]
                cidrgroups.create(self._api, self._groups, self.run, case.name)
            found = deploy(self._api, objects)
            pods = {ref: found[there] for ref, there in objects.pods.items()}
            found_at = places.addresses_of(self._api, case, renaming, pods, [node for node in self._nodes if node.metadata.name in used])
            if outside:
                found_at = {**found_at, **self._options.externals.addresses(case)}
            state = cluster_state(self._options.externals.applied(case), names)
            if dns is not None:
                found_at = {**dns.addresses(), **found_at}
                state = dns.beside(state)
            placement = Placement(state, found_at, "audit" in self.capabilities.features)
            meant = lookups.outside(case, self._options.externals)
            agent = PodAgent(self._api, objects.pods, places.owners(found_at), self._options.externals.vouched(), meant)
            endpoints = {pod.ref: pod.node for pod in state.pods if pod.ref in objects.pods and not pod.host_network}
            nodes = {node: [objects.pods[ref] for ref in endpoints if endpoints[ref] == node] for node in set(endpoints.values())}
            policies = Policies(self._api, renaming, self.run, self._options.allow_clusterwide)
            repository = Repository.empty(self._model)
            settling = Settling(self._agents, self._agents_fault, policies, nodes)
            self._open = _Open(case, renaming, placement, agent, policies, settling, repository, repository)
            with background.meanwhile(agent.open()):
                settling.endpoints()
            background.wait_for(reachable(agent, case, placement))
            if dns is not None:
                background.wait_for(lookups.resolvable(agent, case, renaming, placement))
        except BaseException as error:
            if isinstance(error, ImageUnavailableError):
                self._no_image = error
            self.release()
            raise
        return placement

    @translated("the policies could not be changed")
    def apply(self, change: Change) -> int:
        opened = self._here()
        self._revision += 1
        for ref in change.remove:
            opened.policies.remove(ref)
        for policy in change.apply:
            opened.policies.apply(policy, self._revision)
        opened.repository = opened.repository.change(change.remove, [policy.document for policy in change.apply])
        opened.settling.changed(change, opened.repository)
        return self._revision

    @translated("whether the policies are in force could not be found out")
    def wait(self, revision: int) -> Enforcement:
        if revision > self._revision:
            raise ClusterError(f"revision {revision} was never applied; the latest is {self._revision}")
        began = time.monotonic()
        opened = self._here()
        how = opened.settling.wait()
        if self._agents_fault and opened.enforced is not opened.repository:
            before, after = (Evaluator(opened.placement.state, each) for each in (opened.enforced, opened.repository))
            looked_at = stability.paths(opened.case, opened.placement, before, after)
            how = f"{background.wait_for(stability.stable(opened.agent, looked_at, after))}; {how}"
        opened.enforced = opened.repository
        return Enforcement(how, time.monotonic() - began)

    def probe(self, plan: Sequence[Probe]) -> Iterator[Observation]:
        opened = self._here()
        feed = self._flows.feed if self._flows is not None else None
        sent = [_renamed(probe, opened.renaming) for probe in plan]
        asked = {probe.id: probe for probe in plan}
        with translated("the probes could not be sent"):
            if feed is not None:
                background.wait_for(feed.back(within=_BACK, skew=_SKEW))
            for seen in background.iterate(observe(opened.agent, sent, feed, grace=_GRACE, settle=_SETTLE, skew=_SKEW)):
                yield replace(seen, probe=asked[seen.probe.id], flows=tuple(map(opened.renaming.flow, seen.flows)))

    @translated("how the policies stand could not be found out")
    def status(self, policies: Sequence[PolicyRef]) -> Mapping[PolicyRef, PolicyStatus]:
        """Who refused what is the cluster's own word; what a policy selects and why it does nothing, the model's."""
        opened = self._here()
        evaluator = Evaluator(opened.placement.state, opened.repository)
        errors = {**opened.policies.refused, **opened.settling.refused}
        return {ref: _status(evaluator.status(ref), errors.get(ref)) for ref in policies}

    def flows(self) -> str | None:
        """A local address that leads to Relay, or None."""
        return self._flows.forward.address if self._flows is not None else None

    @translated("what the case created could not be deleted")
    def release(self) -> None:
        """Ask for the deletion of what the case created; it goes in the background."""
        opened, self._open = self._open, None
        created, self._created = self._created, []
        groups, self._groups = self._groups, []
        try:
            if opened is not None:
                opened.agent.close()
                opened.policies.remove_clusterwide()
            cidrgroups.delete(self._api, [each.name for each in groups])
        finally:
            delete_namespaces(self._api, created)

    def close(self) -> None:
        try:
            self.release()
        finally:
            flows, self._flows = self._flows, None
            try:
                if flows is not None:
                    flows.close()
            finally:
                self._agents.close()
                self._lifetime.end()

    # Looking around

    def _look_around(self, agents: list[Any]) -> None:
        """What Cilium is here, by its agents and its configuration."""
        self._agents_fault = self._agents.reach()
        namespace = agents[0].metadata.namespace if agents else "kube-system"
        config = read_config(self._api, namespace)
        if not agents and config is None:
            self._check_cilium()
        told = ("" if self._agents_fault else self._agents.version()) or version_of_image(agents)
        self._version_known = bool(told)
        version = told or self._options.cilium
        status = AgentStatus() if self._agents_fault else self._agents.status()
        self.capabilities = capabilities(
            Facts(version, config, len(self._nodes), status),
            allow_host=self._options.allow_host,
            allow_clusterwide=self._options.allow_clusterwide,
        )
        config = config or {}
        self._model = Options.of(
            version.split("-")[0].split("+")[0],
            enforcement=config.get("enable-policy", "default") or "default",
            cluster_name=config.get("cluster-name", "default") or "default",
            l7_proxy="l7-http" in self.capabilities.features,
            ipv6="ipv6" in self.capabilities.features,
        )

    def _what_to_know(self) -> Iterator[str]:
        if self._options.flows and self.without_flows:
            yield f"no flows: {self.without_flows}"
        if self._agents_fault:
            yield f"the agents cannot be asked what is in force ({self._agents_fault}): that is known less surely"
        if not self._version_known:
            yield f"nobody here says which Cilium this is: it is taken for {self.capabilities.cilium} (--cilium-version says another)"
        if self._model.enforcement != "default":
            yield f"policy enforcement is {self._model.enforcement!r} on this cluster, not 'default'"
        if "audit" in self.capabilities.features:
            yield "this cluster is in policy audit mode: it lets through what policy would drop"
        yield from foreign(self._api)

    def _unknown_name(self, case: Case) -> str:
        """Why a name that the case asks for does not lead where the user says it does; '' where all do. Asked once in a run."""
        for name, meant in lookups.outside(case, self._options.externals).items():
            if (name, meant) not in self._names:
                self._names[name, meant] = lookups.unknown(self._api, name, meant)
            if why := self._names[name, meant]:
                return why
        return ""

    def _here(self) -> _Open:
        if self._open is None:
            raise ClusterError("no case is prepared")
        return self._open

    def _pull_secrets(self) -> Mapping[str, Mapping[str, Any]]:
        """Those that are to be copied, by name."""
        found = {}
        for each in self._options.pods.pull_secrets:
            if each.namespace:
                with translated(f"cannot read the pull secret {each.namespace}/{each.name}"):
                    secret = self._api.core.read_namespaced_secret(each.name, each.namespace, _request_timeout=10)
                    found[each.name] = {"type": secret.type, "data": secret.data}
        return found

    def _check_cilium(self) -> None:
        try:
            self._api.objects.list_cluster_custom_object("cilium.io", "v2", "ciliumnetworkpolicies", limit=1, _request_timeout=10)
        except API_ERRORS as error:
            if getattr(error, "status", 0) == 404:
                raise ClusterError(
                    f"the cluster of context {self._api.context!r} has no Cilium: it does not know CiliumNetworkPolicy",
                    hint="is --kube-context the right one?",
                ) from None

    def _connect_flows(self) -> None:
        if not self._options.flows:
            self.without_flows = "switched off"
            return
        try:
            self._flows = Flows.connect(self._api)
        except FlowsUnavailableError as error:
            if self._options.require_flows:
                raise
            self.without_flows = error.message


def _renamed(probe: Probe, renaming: Renaming) -> Probe:
    """Names that are looked up are the cluster's."""
    if probe.request is None or not probe.request.name:
        return probe
    return replace(probe, request=replace(probe.request, name=renaming.dns(probe.request.name)))


def _status(modelled: PolicyStatus, error: PolicyError | None) -> PolicyStatus:
    if error is not None:
        return replace(modelled, error=error, inert=modelled.inert or f"refused ({error.stage.value}): {error.message}")
    if modelled.error is not None:
        # The model would refuse it, and the cluster took it: the cluster is right.
        return replace(modelled, error=None, inert="")
    return modelled
