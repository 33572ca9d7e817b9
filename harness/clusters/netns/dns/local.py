"""What each node makes of policy by the names that it learned: maps of its own, where they say more than everybody's. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from harness.clusters.netns.dns.learned import Learned
from harness.model.cluster import ClusterState
from harness.policy.compile import compile_maps
from harness.policy.evaluate import Evaluator
from harness.policy.fqdn import FQDNMatcher
from harness.policy.map import PolicyMaps
from harness.policy.repository import Repository
from harness.policy.rules import FQDNSelector


class Local(Struct, frozen=True):
    """`evaluator` and `maps` know no names; `nodes` are the maps of those that do, `names` which these are, by node and address."""

    evaluator: Evaluator
    maps: PolicyMaps
    nodes: Mapping[str, PolicyMaps]
    names: Mapping[str, Mapping[str, frozenset[str]]]

    def of(self, node: str) -> PolicyMaps:
        """A node's maps."""
        return self.nodes.get(node, self.maps)


def compiled(state: ClusterState, repository: Repository, learned: Learned, nodes: Iterable[str], former: Local | None = None) -> Local:
    """The maps of these nodes. `former` are those of the same state and repository, before something was learned or forgotten."""
    evaluator = former.evaluator if former is not None else Evaluator(state, repository)
    maps = former.maps if former is not None else compile_maps(evaluator)
    selectors = [
        FQDNMatcher(peer.match_name, peer.match_pattern)
        for policy in repository.enforced
        for rule in policy.rules
        for peer in rule.peers or ()
        if isinstance(peer, FQDNSelector)
    ]
    found = {node: learned.of(node, lambda name: any(each.matches(name) for each in selectors)) for node in nodes}
    names = {node: own for node, own in found.items() if own}
    known = former.names if former is not None else {}
    local = {
        node: former.nodes[node] if former is not None and known.get(node) == own else compile_maps(Evaluator(state, repository, own))
        for node, own in names.items()
    }
    return Local(evaluator, maps, local, names)
