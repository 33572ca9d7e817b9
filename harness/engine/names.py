"""What DNS has taught the nodes of a case, as the lookups of its probes show: which names, when, and what cannot be told. Pure.

Only where nobody else looks names up. Two answers for each moment, since probes are sent side by side: the names that were surely known
to a node, and those that may have been.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from msgspec import Struct

from harness.clusters.base import Observation
from harness.engine.judge import own_flows
from harness.model.cluster import ClusterState
from harness.model.flow import FlowVerdict
from harness.model.probe import Ending, Site
from harness.model.traffic import RequestKind

Known: TypeAlias = Mapping[str, frozenset[str]]
"""The names of each address."""

_RESPONSE = 2
_SECOND = 1_000_000_000


class _Lesson(Struct, frozen=True):
    """A name of an address that a node may know since `since`, and knows for sure from `sure` until `until`; ns since the epoch.

    After that it may know it still, as long as some connection is alive. What is never sure has `sure` after `until`.
    """

    node: str
    address: str
    name: str
    since: int
    sure: int
    until: int


@dataclass(slots=True)
class Names:
    """The lookups of one case so far."""

    state: ClusterState
    _lessons: list[_Lesson] = field(default_factory=list, init=False)

    def saw(self, observation: Observation) -> None:
        """One more probe has ended; what is no lookup teaches nothing."""
        request = observation.probe.request
        if request is not None and request.kind is RequestKind.LOOKUP and not observation.probe.liveness:
            self._lessons.extend(self._learned(observation, request.name.rstrip(".").lower()))

    def at(self, site: Site, started: int, ended: int) -> tuple[Known, Known]:
        """What the node of a site surely knew all the time from `started` to `ended`, and what it may have known at some time of it."""
        node = self._node(site)
        mine = [each for each in self._lessons if each.node == node]
        return (
            _known(each for each in mine if each.sure <= started and ended <= each.until),
            _known(each for each in mine if each.since <= ended),
        )

    def _node(self, site: Site) -> str:
        if site.kind == "pod":
            return next((pod.node for pod in self.state.pods if str(pod.ref) == site.name), "")
        return site.name if site.kind == "node" else ""

    def _learned(self, observation: Observation, name: str) -> Iterator[_Lesson]:
        node, result = self._node(observation.probe.site), observation.result
        flows = own_flows(observation)
        answers = [flow.l7 for flow in flows if flow.l7 is not None and flow.l7.kind == "dns" and flow.l7.type == _RESPONSE]
        for answer in answers:
            for address in answer.ips:
                yield _Lesson(node, address, name, result.started, result.ended, result.started + answer.ttl * _SECOND)
        redirected = any(flow.verdict is FlowVerdict.REDIRECTED for flow in flows)
        told = any(flow.dropped for flow in flows) or (result.ending is Ending.ANSWERED and flows and not redirected)
        if not answers and (observation.lost or not told):
            for host in self.state.externals:
                if name in (each.rstrip(".").lower() for each in host.names):
                    yield _Lesson(node, host.address, name, result.started, 1, 0)


def _known(lessons: Iterator[_Lesson]) -> Known:
    names: dict[str, set[str]] = {}
    for each in lessons:
        names.setdefault(each.address, set()).add(each.name)
    return {address: frozenset(own) for address, own in names.items()}
