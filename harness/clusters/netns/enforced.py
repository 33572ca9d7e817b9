"""What a lab has in force: a policy for each pod, and for each node's host. Values, made of compiled maps; writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct, field

from harness.clusters.netns.dns.local import Local
from harness.errors import ClusterError
from harness.model.traffic import PodRef
from harness.model.verdict import Decision
from harness.policy.map import DirectionPolicy, EndpointPolicy

_OPEN = DirectionPolicy(enforced=False, default=Decision.ALLOW, by_identity={})


class Enforced(Struct, frozen=True):
    """`pods` are those of the case; `hosts` the host firewall's policies by node, none where it is off."""

    pods: Mapping[PodRef, EndpointPolicy] = field(default_factory=dict)
    hosts: Mapping[str, EndpointPolicy] = field(default_factory=dict)
    places: Mapping[PodRef, str] = field(default_factory=dict)
    """The node of each pod."""

    def at_nodes(self) -> Iterator[tuple[str, EndpointPolicy]]:
        """Each pod's policy, with the pod's node."""
        return ((self.places[ref], policy) for ref, policy in self.pods.items())


def enforced(new: Local, places: Mapping[PodRef, str], nodes: Iterable[str], former: Enforced) -> Enforced:
    """What nodes make of `new`. Raises ClusterError for rules of hosts that the lab would leave half enforced."""
    pods = {ref: _with_former(new.of(node).endpoints[ref], former.pods.get(ref)) for ref, node in places.items()}
    hosts = {node: _with_former(policy, former.hosts.get(node)) for node in nodes if (policy := new.of(node).hosts.get(node)) is not None}
    for node, policy in hosts.items():
        _check_host(node, policy)
    return Enforced(pods, hosts, places)


def _check_host(node: str, policy: EndpointPolicy) -> None:
    """Of L7 rules, Cilium lets a host have DNS rules only."""
    for intervals in policy.egress.by_identity.values():
        for each in intervals:
            if each.redirect:
                by = ", ".join(sorted({str(rule) for rule in each.rules}))
                raise ClusterError(
                    f"the lab has no {each.redirect.upper()} proxy for what a node's host sends (node {node}): {by}",
                    hint="Run this case on another cluster, or allow the port without rules.",
                )


def _with_former(policy: EndpointPolicy, former: EndpointPolicy | None) -> EndpointPolicy:
    """A direction whose policy could not be computed keeps what was enforced before, as a Cilium endpoint does."""

    def of(new: DirectionPolicy, old: DirectionPolicy) -> DirectionPolicy:
        broken = any(interval.decision is Decision.ERROR for intervals in new.by_identity.values() for interval in intervals)
        return old if broken else new

    ingress = of(policy.ingress, former.ingress if former else _OPEN)
    egress = of(policy.egress, former.egress if former else _OPEN)
    if ingress is policy.ingress and egress is policy.egress:
        return policy
    return EndpointPolicy(ingress=ingress, egress=egress)
