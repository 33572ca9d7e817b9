"""What makes policies be in force: repository to maps to every node's filter and proxies, one revision after the other. It also lets names
that DNS taught come and go, which changes the maps of one node. Not what a node's rules look like (`filter`), nor who has which address (`placed`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from harness.clusters.netns.dns import local
from harness.clusters.netns.dns.learned import Learned
from harness.clusters.netns.dns.local import Local
from harness.clusters.netns.enforced import Enforced, enforced
from harness.clusters.netns.filter import NodeFilter, Wanted
from harness.clusters.netns.placed import Placed
from harness.clusters.netns.proxy.redirection import Redirection
from harness.clusters.netns.snapshot import Snapshot
from harness.clusters.netns.topology import Topology
from harness.model.cluster import LOCAL_CLUSTER
from harness.model.verdict import PolicyRef, PolicyStatus
from harness.policy.options import Options
from harness.policy.repository import Repository

_REVISIONS_KEPT = 8


class Enforcer:
    """`filters` are those of all nodes, by name. Raises ClusterError for rules that the lab would leave half enforced; then what was in force still is."""

    def __init__(
        self, options: Options, placed: Placed, topology: Topology, filters: Mapping[str, NodeFilter], redirection: Redirection
    ) -> None:
        self._options = options
        self._topology = topology
        self._filters = filters
        self._redirection = redirection
        self._loop = asyncio.get_running_loop()
        self._changing = asyncio.Lock()
        self._revision = 0
        self._snapshots: dict[int, Snapshot] = {}
        self._learned = Learned()
        self._forgetting: asyncio.TimerHandle | None = None
        self._forgets: set[asyncio.Task[None]] = set()
        self._reset(placed, options)

    def _reset(self, placed: Placed, options: Options) -> None:
        self._placed = placed
        self._repository = Repository.empty(options)
        self._local = local.compiled(placed.state, self._repository, self._learned, ())
        self._enforced = Enforced()

    @property
    def current(self) -> Snapshot:
        """What is in force."""
        return self._snapshots[self._revision]

    def snapshot(self, revision: int) -> Snapshot | None:
        """What was in force at one of the latest revisions."""
        return self._snapshots.get(revision)

    def begin(self, placed: Placed, *, audit: bool) -> None:
        """A case without policies. With `audit`, what they drop will be let through, and told."""
        self._reset(placed, replace(self._options, audit=audit))
        self._enforce(self._local, self._enforceable(self._local))

    def end(self, nothing: Placed) -> None:
        """End the case: nothing of it is enforced or remembered."""
        self._learned.clear()
        for filter_ in self._filters.values():
            filter_.change(Wanted(self._revision, {}, {}, {}))
        self._reset(nothing, self._options)

    async def apply(self, remove: Sequence[PolicyRef], documents: Sequence[Mapping[str, Any]]) -> int:
        """Change the policies; they are enforced, by packet filter and proxies, when this returns. The number of the new revision."""
        async with self._changing:
            repository = self._repository.change(remove, documents)
            await self._change(repository, local.compiled(self._placed.state, repository, self._learned, self._filters))
            return self._revision

    def status(self, policies: Sequence[PolicyRef]) -> Mapping[PolicyRef, PolicyStatus]:
        return {ref: self._local.evaluator.status(ref) for ref in policies}

    async def learn(self, node: str, name: str, addresses: Sequence[str], seconds: float) -> None:
        """An answer that a node's client is about to get: what it opens is open when this returns, and for so long."""
        self._learned.learn(node, name, addresses, self._loop.time() + seconds)
        await self._relearn()

    async def forget(self, now: float) -> None:
        """Close what names opened whose time is over, by the loop's clock."""
        if self._learned.forget(now):
            await self._relearn()

    def close(self) -> None:
        if self._forgetting is not None:
            self._forgetting.cancel()

    def _enforceable(self, new: Local) -> Enforced:
        found = enforced(new, self._placed.nodes, self._filters, self._enforced)
        self._redirection.check(found.at_nodes())
        return found

    async def _change(self, repository: Repository, new: Local) -> None:
        found = self._enforceable(new)
        await self._redirection.serve(found.at_nodes())
        self._enforce(new, found)
        self._repository, self._local = repository, new

    async def _relearn(self) -> None:
        """Enforce what the names come to that are known now."""
        async with self._changing:
            new = local.compiled(self._placed.state, self._repository, self._learned, self._filters, self._local)
            if new.names != self._local.names:
                await self._change(self._repository, new)
        until = self._learned.next_end()
        if self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None
        if until is not None:
            self._forgetting = self._loop.call_at(until, self._forget_soon)

    def _forget_soon(self) -> None:
        task = self._loop.create_task(self.forget(self._loop.time()))
        self._forgets.add(task)
        task.add_done_callback(self._forgets.discard)

    def _enforce(self, new: Local, found: Enforced) -> None:
        self._revision += 1
        snapshot = Snapshot(
            revision=self._revision,
            cluster=LOCAL_CLUSTER,
            maps=new.maps,
            local=new.nodes,
            names=new.names,
            pods=self._placed.places,
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
