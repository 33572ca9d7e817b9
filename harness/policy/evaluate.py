"""The policy verdict of one unit of traffic, from a cluster's state and the policies in force. Pure; answers are cached.

What is decided is a matter of identities: each side's endpoint has a table (`subjects`), looked up for the peer's identity (`table`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from harness.errors import ScenarioError
from harness.model.cluster import ClusterState, Pod
from harness.model.traffic import Direction, Entity, EntityName, External, Peer, PodRef, Protocol, Request, Traffic
from harness.model.verdict import Decision, DirectionVerdict, L7Decision, PolicyRef, PolicyStatus, PolicyVerdict
from harness.policy.identities import IdentityTable
from harness.policy.l7 import answer
from harness.policy.repository import Repository, prefixes_of
from harness.policy.rules import Parser
from harness.policy.status import policy_status
from harness.policy.subjects import Subject, Subjects
from harness.policy.table import DirectionTable, Outcome

NOT_APPLICABLE = DirectionVerdict(Decision.NOT_APPLICABLE)
_WHICH_NODE = DirectionVerdict(
    Decision.UNKNOWN, enforced=True, note="policies differ between nodes, and the other end does not tell which of them it is"
)
_OPEN = DirectionVerdict(Decision.ALLOW)
_OPEN_L7 = DirectionVerdict(Decision.ALLOW, l7=L7Decision.ALLOW)


class _Plain(Struct, frozen=True):
    """A pod with a policy of its own: the position of its identity, and its tables."""

    position: int
    egress: DirectionTable
    ingress: DirectionTable


class Evaluator:
    """Answers for one cluster state under one repository. `learned` are names that DNS taught: address to names."""

    def __init__(self, state: ClusterState, repository: Repository, learned: Mapping[str, Iterable[str]] | None = None) -> None:
        self.state = state
        self.repository = repository
        self.learned = learned or {}
        self.options = repository.options
        rules = [rule for policy in repository.enforced for rule in policy.rules]
        used = {prefix for policy in repository.enforced for prefix in prefixes_of(policy)}
        numbers = {prefix: offset for prefix, offset in repository.numbers.items() if prefix in used}
        self.identities = IdentityTable(state, self.options, numbers, self.learned)
        self.subjects = Subjects(state, self.identities, rules, self.options)
        self._pods: dict[PodRef, Pod] = {pod.ref: pod for pod in state.pods}
        self._nodes = sorted({*state.nodes, *(pod.node for pod in state.pods)})
        self._plains: dict[PodRef, _Plain | None] = {}
        self._decided: dict[tuple[int, int, int, int], tuple[DirectionVerdict, Outcome]] = {}

    def verdict(self, traffic: Traffic) -> PolicyVerdict:
        """What policy decides. ScenarioError if a pod is not in the state."""
        source, destination = self._plain(traffic.source), self._plain(traffic.destination)
        if source is not None and destination is not None:
            asked = (traffic.protocol, traffic.port, traffic.request)
            return PolicyVerdict(
                egress=self.decided(source.egress, destination.position, *asked),
                ingress=self.decided(destination.ingress, source.position, *asked),
            )
        return PolicyVerdict(egress=self.direction(traffic, Direction.EGRESS), ingress=self.direction(traffic, Direction.INGRESS))

    def direction(self, traffic: Traffic, direction: Direction) -> DirectionVerdict:
        """One side: egress is decided at the source, ingress at the destination."""
        egress = direction is Direction.EGRESS
        mine, other = (traffic.source, traffic.destination) if egress else (traffic.destination, traffic.source)
        subject = self.subject(mine, other)
        if subject is None:
            self.position(other, "")  # an unknown pod is an error on either side
            return _WHICH_NODE if self.depends_on_node(mine, other) else NOT_APPLICABLE
        table = self.subjects.table(subject, direction)
        position = self.position(other, subject.node)
        return self.decided(table, position, traffic.protocol, traffic.port, traffic.request)

    def _plain(self, peer: Peer) -> _Plain | None:
        """What there is to know of a pod with a policy of its own, whoever the other end is; None for everything else."""
        if not isinstance(peer, PodRef):
            return None
        found = self._plains.get(peer)
        if found is None and peer not in self._plains:
            subject = None if self.pod(peer).host_network else self.subjects.pods.get(peer)
            if subject is not None:
                egress, ingress = (self.subjects.table(subject, each) for each in (Direction.EGRESS, Direction.INGRESS))
                found = _Plain(self.identities.pods[peer], egress, ingress)
            self._plains[peer] = found
        return found

    def decided(
        self, table: DirectionTable, position: int, protocol: Protocol, port: int, request: Request | None = None
    ) -> DirectionVerdict:
        """What a table says about a peer (the position of its identity), protocol and port."""
        if not table.enforced:
            return _OPEN_L7 if request is not None else _OPEN
        if table.error:
            # Never remembered by the table's key: endpoints that are alike in this direction share it, and may differ in the other's error.
            return DirectionVerdict(Decision.ERROR, enforced=True, selecting=table.selecting, note=table.error)
        key = (table.key, position, protocol.number, port)
        found = self._decided.get(key)
        if found is None:
            found = self._decided[key] = self._decide(table, position, protocol.number, port)
        verdict, outcome = found
        if request is None or verdict.decision is not Decision.ALLOW:
            return verdict
        reply = answer(outcome.allows, request)
        return DirectionVerdict(
            verdict.decision,
            verdict.rules,
            enforced=True,
            selecting=verdict.selecting,
            l7=reply.decision,
            redirected=verdict.redirected,
            note=reply.note,
        )

    def _decide(self, table: DirectionTable, position: int, protocol: int, port: int) -> tuple[DirectionVerdict, Outcome]:
        outcome = table.outcome(position, protocol, port, self.options)
        verdict = DirectionVerdict(
            outcome.decision,
            outcome.rules,
            enforced=True,
            selecting=table.selecting,
            redirected=outcome.parser is not Parser.NONE,
            note=outcome.note,
        )
        return verdict, outcome

    @property
    def nodes_matter(self) -> bool:
        """Whether who `host` and `remote-node` are, and what policy they are under, can depend on the other end."""
        return self.options.host_firewall or self.options.node_selector_labels or any(pod.host_network for pod in self.state.pods)

    def subject(self, peer: Peer, other: Peer) -> Subject | None:
        """The endpoint that policy is enforced for at this end, or None. `other` tells which node `host` is."""
        match peer:
            case PodRef():
                pod = self.pod(peer)
                return self.subjects.hosts.get(pod.node) if pod.host_network else self.subjects.pods.get(peer)
            case Entity(EntityName.HOST | EntityName.REMOTE_NODE):
                nodes = self._hosts(peer, other)
                return nodes[0] if nodes and self._alike(nodes) else None
            case Entity(name):
                return self.subjects.entities.get(name)
            case External():
                return None

    def depends_on_node(self, peer: Peer, other: Peer) -> bool:
        """Whether `peer` may be one of several nodes that are not under the same policies."""
        return isinstance(peer, Entity) and not self._alike(self._hosts(peer, other))

    def _hosts(self, peer: Entity, other: Peer) -> tuple[Subject, ...]:
        """The nodes that `host` or `remote-node` may be, of those that policy is enforced for."""
        here = self._node(other)
        if peer.name is EntityName.HOST:
            found = [here] if here else self._nodes
        else:
            found = [node for node in self._nodes if node != here] if peer.name is EntityName.REMOTE_NODE else []
        return tuple(self.subjects.hosts[node] for node in found if node in self.subjects.hosts)

    def _alike(self, nodes: Sequence[Subject]) -> bool:
        return all(len({self.subjects.table(each, direction).key for each in nodes}) < 2 for direction in Direction)

    def position(self, peer: Peer, node: str) -> int:
        """The position of a peer's identity, seen from a node ('' where it does not matter)."""
        match peer:
            case PodRef():
                pod = self.pod(peer)
                if not pod.host_network:
                    return self.identities.pods[peer]
                return self._node_position(pod.node, node)
            case Entity(EntityName.REMOTE_NODE):
                elsewhere = [each for each in self._nodes if each != node]
                return self._node_position(elsewhere[0], node) if elsewhere else self.identities.entities[EntityName.REMOTE_NODE]
            case Entity(name):
                return self.identities.entities[name]
            case External(address):
                return self.identities.of_address(address)

    def _node_position(self, node: str, seen_from: str) -> int:
        if node == seen_from:
            return self.identities.entities[EntityName.HOST]
        return self.identities.remote_nodes.get(node, self.identities.entities[EntityName.REMOTE_NODE])

    def _node(self, peer: Peer) -> str:
        return self.pod(peer).node if isinstance(peer, PodRef) else ""

    def pod(self, ref: PodRef) -> Pod:
        try:
            return self._pods[ref]
        except KeyError:
            raise ScenarioError(f"there is no pod {ref}", hint=f"There are {', '.join(map(str, self._pods)) or 'none'}.") from None

    def status(self, ref: PolicyRef) -> PolicyStatus:
        """How a policy stands: refused, what it selects, why it does nothing."""
        return policy_status(ref, self.repository, self.subjects)
