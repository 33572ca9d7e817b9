"""Waits until a case's policies are in force, and notices those that are refused. How the agents are read is in `enforcement`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from harness.clusters.base import Change
from harness.clusters.kubernetes.enforcement import Agents, AgentView, Wanted, pending, published, unready
from harness.clusters.kubernetes.policies import KNP, Policies, condition_text, valid
from harness.errors import ClusterError
from harness.model.traffic import PodRef
from harness.model.verdict import PolicyError, PolicyRef, PolicyStage
from harness.policy.repository import Repository

_WITHIN = 60.0
_PATIENCE = 3.0
"""How long an agent may take to list a policy that has good reasons not to be listed (s)."""
_PUBLISHED = 15.0
"""How long an agent may take to publish its endpoints (s)."""
_PAUSES = (0.01, 0.02, 0.05, 0.1)


class Settling:
    """The enforcement of one case. `refused` are the policies that agents or the operator would not take."""

    def __init__(self, agents: Agents, fault: str, policies: Policies, nodes: Mapping[str, Sequence[PodRef]]) -> None:
        """`fault`: why the agents cannot be asked, '' where they can. `nodes`: the endpoints of the case on each node."""
        self._agents = agents
        self._fault = fault
        self._policies = policies
        self._nodes = nodes
        self._pending: set[PolicyRef] = set()
        self._changed = False
        self._doubtful: Mapping[PolicyRef, PolicyError] = {}
        self.refused: dict[PolicyRef, PolicyError] = {}

    def changed(self, change: Change, repository: Repository) -> None:
        """A change was applied: what it touched must be looked at again. `repository` says what the model would refuse."""
        for ref in change.remove:
            self.refused.pop(ref, None)
            self._pending.discard(ref)
        for policy in change.apply:
            self.refused.pop(policy.ref, None)
            if policy.ref not in self._policies.refused:
                self._pending.add(policy.ref)
        self._doubtful = dict(repository.errors)
        self._changed = self._changed or bool(change.remove or change.apply)

    def endpoints(self) -> None:
        """Until each pod is a ready endpoint with an identity: as the agents say, or else as the objects say that they publish."""
        if self._fault:
            self._until_published()
        else:
            self._until_realized(Wanted())

    def wait(self) -> str:
        """Until everything is in force; returns how that is known. ClusterError with what is lacking where it takes too long."""
        if not self._changed:
            return "no policy was changed"
        if self._fault:
            self._until_valid()
            how = f"the policies' status, since the agents cannot be asked ({self._fault})"
        else:
            self._until_realized(None)
            how = f"realized policy revision of every endpoint, told by the agents of {len(self._nodes)} nodes"
        self._changed = False
        self._pending.clear()
        self._policies.gone.clear()
        return how

    def _until_realized(self, fixed: Wanted | None) -> None:
        began = time.monotonic()
        floors: dict[str, int] = {}
        left = sorted(self._nodes)
        turn = 0
        why = ""
        while left:
            views = self._agents.ask(left)
            wanted = fixed or self._wanted(views, time.monotonic() - began)
            still = []
            for node in left:
                why_not = self._lacks(node, views[node], wanted, floors)
                if why_not:
                    still.append(node)
                    why = f"node {node}: {why_not}"
            left = still
            if left and time.monotonic() - began > _WITHIN:
                raise ClusterError(
                    f"the policies are not in force after {_WITHIN:g} s: {why}", hint="see `cilium-dbg endpoint list` in that node's agent"
                )
            if left:
                time.sleep(_PAUSES[min(turn, len(_PAUSES) - 1)])
                turn += 1

    def _lacks(self, node: str, view: AgentView | str, wanted: Wanted, floors: dict[str, int]) -> str:
        if isinstance(view, str):
            return view
        if node in floors and view.revision >= floors[node]:
            return unready(view, self._nodes[node], floors[node])
        # First seen complete, or the agent began anew: what its endpoints must have realized is what it has now.
        floors.pop(node, None)
        why = pending(view, wanted, (), 0)
        if not why:
            floors[node] = view.revision
            why = unready(view, self._nodes[node], view.revision)
        return why

    def _wanted(self, views: Mapping[str, AgentView | str], waited: float) -> Wanted:
        present = {}
        for ref in sorted(self._pending):
            applied = self._policies.applied.get(ref)
            if applied is None or ref in self.refused:
                continue
            listed = any(
                isinstance(view, AgentView)
                and applied.uid in view.policies
                and (not applied.mark or applied.mark in view.policies[applied.uid])
                for view in views.values()
            )
            if listed or not self._is_refused(ref, waited):
                present[applied.uid] = applied.mark
        return Wanted(present, frozenset(self._policies.gone))

    def _is_refused(self, ref: PolicyRef, waited: float) -> bool:
        """Whether a policy that no agent lists (yet) is refused. Remembers why."""
        applied = self._policies.applied[ref]
        if ref.kind != KNP:
            body = self._policies.read(ref)
            verdict, message = valid(body)
            fresh = not applied.condition or condition_text(body) != applied.condition
            if verdict is False and (fresh or waited > _PATIENCE):
                self.refused[ref] = PolicyError(PolicyStage.AGENT, message)
                return True
        doubt = self._doubtful.get(ref)
        if doubt is not None and waited > _PATIENCE:
            self.refused[ref] = PolicyError(PolicyStage.AGENT, f"no agent took it; the policy model says: {doubt.message}")
            return True
        return False

    def _until_published(self) -> None:
        """Nobody is an endpoint for certain where its object may not be read, or does not come: the baseline then says what is wrong."""
        left = {pod for pods in self._nodes.values() for pod in pods}
        began = time.monotonic()
        turn = 0
        while left and time.monotonic() - began < _PUBLISHED:
            found = published(self._policies.api, sorted({pod.namespace for pod in left}))
            if found is None:
                return
            left = {pod for pod in left if pod not in found or found[pod].state != "ready" or not found[pod].identity}
            if left:
                time.sleep(_PAUSES[min(turn, len(_PAUSES) - 1)])
                turn += 1

    def _until_valid(self) -> None:
        began = time.monotonic()
        turn = 0
        left = {ref for ref in self._pending if ref.kind != KNP and ref in self._policies.applied}
        while left and time.monotonic() - began < _PATIENCE:
            for ref in tuple(left):
                body = self._policies.read(ref)
                verdict, message = valid(body)
                applied = self._policies.applied[ref]
                if verdict is None or (applied.condition and condition_text(body) == applied.condition):
                    continue
                left.discard(ref)
                if not verdict:
                    self.refused[ref] = PolicyError(PolicyStage.AGENT, message)
            if left:
                time.sleep(_PAUSES[min(turn, len(_PAUSES) - 1)])
                turn += 1
