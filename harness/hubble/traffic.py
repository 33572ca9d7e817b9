"""What recorded flows tell of a cluster: which pods there are, and who talked to whom. Pure; what policy says of it is the evaluator's.

Flows carry the security-relevant labels of both ends, which is all that policies select by. They do not carry the names of ports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from msgspec import Struct

from harness.hubble.match import POLICY_DROPS
from harness.model.cluster import ClusterState, Pod
from harness.model.flow import DropReason, FiveTuple, Flow, FlowEndpoint, FlowVerdict, L7Record
from harness.model.identity import ReservedIdentity
from harness.model.labels import CLUSTER_LABEL, K8S, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, SERVICE_ACCOUNT_LABEL, Label
from harness.model.traffic import Entity, EntityName, External, Family, Peer, PodRef, Request, RequestKind, Traffic

_OWN = frozenset({NAMESPACE_LABEL, CLUSTER_LABEL, SERVICE_ACCOUNT_LABEL})
"""Labels that the model adds itself."""
_ENTITIES: Mapping[str, Entity] = {f"reserved:{each.value}": Entity(each) for each in EntityName}
_WORLD = (ReservedIdentity.WORLD, ReservedIdentity.WORLD_IPV4, ReservedIdentity.WORLD_IPV6)
_OUTSIDE = ("reserved:world", "cidr:", "cidrgroup:", "fqdn:")
_PASSED = frozenset({FlowVerdict.FORWARDED, FlowVerdict.REDIRECTED, FlowVerdict.AUDIT})
_DROPS = POLICY_DROPS | {DropReason.AUTH_REQUIRED}
_REQUEST = 1


class Talk(Struct, frozen=True):
    """One kind of traffic and its connections: how many passed, and how many policy dropped."""

    traffic: Traffic
    passed: int
    dropped: int


class Recording(Struct, frozen=True):
    """A cluster as its flows show it. `learned` are the names that its agents knew for addresses; `skipped` are flows (not replies) whose ends
    nothing tells."""

    state: ClusterState
    learned: Mapping[str, frozenset[str]]
    talks: tuple[Talk, ...]
    skipped: int


@dataclass(slots=True)
class _Seen:
    """The connections of one kind of traffic."""

    passed: set[FiveTuple] = field(default_factory=set)
    dropped: set[FiveTuple] = field(default_factory=set)


def recording(flows: Iterable[Flow]) -> Recording:
    """What the flows tell. Replies, drops that are none of policy's, and pods that talk to themselves say nothing of policy."""
    pods: dict[PodRef, Pod] = {}
    namespaces: dict[str, Mapping[str, str]] = {}
    learned: dict[str, set[str]] = {}
    seen: dict[Traffic, _Seen] = {}
    skipped = 0
    for flow in flows:
        dropped = flow.verdict is FlowVerdict.DROPPED and (flow.drop_reason in _DROPS or flow.l7 is not None)
        if flow.is_reply or not (dropped or (flow.verdict in _PASSED and flow.is_reply is False)):
            continue
        if flow.l7 is not None and flow.l7.type != _REQUEST:
            continue
        five = flow.five_tuple
        source, destination = _peer(flow.source, five.source), _peer(flow.destination, five.destination)
        if source is None or destination is None:
            skipped += 1
            continue
        if source == destination:
            continue
        for end in (flow.source, flow.destination):
            if end.pod:
                pod, labels = _pod(end, flow.node)
                pods[pod.ref], namespaces[pod.ref.namespace] = pod, labels
        for address, names in ((five.source, flow.source_names), (five.destination, flow.destination_names)):
            if names:
                learned.setdefault(address, set()).update(names)
        traffic = Traffic(source, destination, five.protocol, five.destination_port, _request(flow.l7), Family.of(five.source))
        connections = seen.setdefault(traffic, _Seen())
        (connections.dropped if dropped else connections.passed).add(five)
    talks = tuple(Talk(each, len(found.passed - found.dropped), len(found.dropped)) for each, found in seen.items())
    state = ClusterState(namespaces=namespaces, pods=tuple(pods.values()))
    return Recording(state, {address: frozenset(names) for address, names in learned.items()}, talks, skipped)


def _peer(end: FlowEndpoint, address: str) -> Peer | None:
    if end.pod:
        return PodRef(end.namespace, end.pod)
    entity = next((_ENTITIES[label] for label in end.labels if label in _ENTITIES), None)
    if entity is not None:
        return entity
    if end.identity in _WORLD or any(label.startswith(_OUTSIDE) for label in end.labels):
        return External(address)
    return None


def _pod(end: FlowEndpoint, node: str) -> tuple[Pod, Mapping[str, str]]:
    """The pod at an end of a flow, and the labels of its namespace."""
    labels = {label.key: label.value for label in map(Label.parse, end.labels) if label.source == K8S}
    prefix = NAMESPACE_LABELS_PREFIX
    of_namespace = {key.removeprefix(prefix): value for key, value in labels.items() if key.startswith(prefix)}
    own = {key: value for key, value in labels.items() if key not in _OWN and not key.startswith(prefix)}
    return Pod(PodRef(end.namespace, end.pod), own, node, labels.get(SERVICE_ACCOUNT_LABEL)), of_namespace


def _request(record: L7Record | None) -> Request | None:
    if record is None:
        return None
    if record.kind == "http":
        url = urlsplit(record.url)
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        return Request(RequestKind.HTTP, record.method, path, url.netloc, record.headers)
    if record.kind == "dns":
        return Request(RequestKind.LOOKUP, name=record.query.removesuffix("."))
    return None
