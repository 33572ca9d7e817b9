"""The smallest policies that would allow what is denied, proven by the model; or why none can."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from harness.model.labels import CLUSTER_LABEL, NAMESPACE_LABEL
from harness.model.traffic import Direction, Entity, EntityName, External, Family, Peer, PodRef, Protocol, Request, RequestKind, Traffic
from harness.model.verdict import Decision, L7Decision, PolicyRef, PolicyVerdict, RuleRef, Verdict
from harness.policy.evaluate import Evaluator
from harness.policy.identities import security_relevant
from harness.policy.l7 import normalised
from harness.policy.parse import parse_policy
from harness.policy.rules import CILIUM_CLUSTERWIDE_NETWORK_POLICY, CILIUM_NETWORK_POLICY
from harness.policy.subjects import Subject

_SPECIAL = re.compile(r"([.^$*+?{}()|\[\]\\])")
_L3_ONLY = (Protocol.VRRP, Protocol.IGMP, Protocol.GRE, Protocol.IPIP, Protocol.IPV6, Protocol.ESP, Protocol.AH)


class Remedy(Struct, frozen=True):
    """`policies` to apply beside those there are (Kubernetes objects, one for each side that denies); empty where none can help.

    `note` says what else they do or, where there are none, why; `blocking` are the deny rules that stand in the way.
    """

    policies: tuple[Mapping[str, Any], ...] = ()
    note: str = ""
    blocking: tuple[RuleRef, ...] = ()


def remedy(evaluator: Evaluator, traffic: Traffic, verdict: PolicyVerdict) -> Remedy | None:
    """What would allow the traffic; None where it is allowed."""
    if verdict.verdict is Verdict.ALLOW:
        return None
    sides = {Direction.EGRESS: verdict.egress, Direction.INGRESS: verdict.ingress}
    blocking = tuple(rule for each in sides.values() if each.decision is Decision.DENY_RULE for rule in each.rules)
    if blocking:
        return Remedy(note="no allow can: a deny rule wins over every allow. Narrow or remove it", blocking=blocking)
    for direction, each in sides.items():
        if each.decision is Decision.ERROR:
            return Remedy(note=f"no rule can while the endpoint's policy cannot be computed ({direction}): {each.note}")
        if each.decision is Decision.AUTH:
            return Remedy(
                note=f"the {direction} rules demand mutual authentication, which is not on: enable it, or take `authentication` off",
                blocking=each.rules,
            )
    wanted = [each for each, side in sides.items() if side.decision is not Decision.NOT_APPLICABLE and not _open(side.decision, side.l7)]
    reaches = [True, False] if traffic.request is not None else [False]
    for narrow in reaches:
        policies = tuple(_policy(evaluator, traffic, each, narrow=narrow) for each in wanted)
        if all(policies) and _allows(evaluator, traffic, policies):
            note = "the request alone cannot be allowed beside the rules there are: this opens the whole port"
            return Remedy(policies, note="" if narrow or traffic.request is None else note)
    reasons = [side.note for side in sides.values() if side.note]
    return Remedy(note="; ".join(reasons) or "no single rule allows it beside the rules there are")


def _open(decision: Decision, l7: L7Decision) -> bool:
    return decision is Decision.ALLOW and l7 in (L7Decision.ALLOW, L7Decision.NOT_APPLICABLE)


def _allows(evaluator: Evaluator, traffic: Traffic, policies: tuple[Mapping[str, Any], ...]) -> bool:
    changed = Evaluator(evaluator.state, evaluator.repository.change(apply=policies), evaluator.learned)
    return changed.verdict(traffic).verdict is Verdict.ALLOW


def _policy(evaluator: Evaluator, traffic: Traffic, direction: Direction, *, narrow: bool) -> Mapping[str, Any]:
    """The policy for one side."""
    outward = direction is Direction.EGRESS
    mine, other = (traffic.source, traffic.destination) if outward else (traffic.destination, traffic.source)
    subject = evaluator.subject(mine, other)
    if subject is None:
        return {}
    way = "to" if outward else "from"
    rule = {**_peer(evaluator, other, way, mine, subject), **_ports(traffic, narrow=narrow)}
    selector_key, selector = _selects(evaluator, mine, subject)
    spec: dict[str, Any] = {selector_key: selector, direction.value: [rule]}
    ref = mine if isinstance(mine, PodRef) and not subject.host else None
    metadata = {"name": _free_name(evaluator, _name(mine, other, outward=outward), ref.namespace if ref else "")}
    document: dict[str, Any] = {
        "apiVersion": "cilium.io/v2",
        "kind": CILIUM_NETWORK_POLICY if ref else CILIUM_CLUSTERWIDE_NETWORK_POLICY,
        "metadata": {**metadata, "namespace": ref.namespace} if ref else metadata,
        "spec": spec,
    }
    if _closes_others(evaluator, document, direction):
        spec["enableDefaultDeny"] = {direction.value: False}
    return document


def _closes_others(evaluator: Evaluator, document: Mapping[str, Any], direction: Direction) -> bool:
    """Whether an endpoint that is open in this direction would be selected, and so put into default deny."""
    rules = parse_policy(document, evaluator.options).rules
    subjects = evaluator.subjects
    for each in subjects.all():
        choice = subjects.choice(each, direction)
        if (choice is None or not choice.default_deny) and any(subjects.selected_by(rule, each) for rule in rules):
            return True
    return False


def _selects(evaluator: Evaluator, peer: Peer, subject: Subject) -> tuple[str, Mapping[str, Any]]:
    if subject.host:
        labels = {key: value for key, value in evaluator.state.nodes.get(subject.node, {}).items() if security_relevant(key)}
        return "nodeSelector", {"matchLabels": labels} if labels else {}
    if isinstance(peer, PodRef):
        labels = _labels(evaluator, peer)
        return "endpointSelector", {"matchLabels": labels} if labels else {}
    return "endpointSelector", {"matchLabels": {f"reserved:{peer}": ""}}


def _labels(evaluator: Evaluator, ref: PodRef) -> dict[str, str]:
    return {key: value for key, value in sorted(evaluator.pod(ref).labels.items()) if security_relevant(key)}


def _peer(evaluator: Evaluator, peer: Peer, way: str, mine: Peer, subject: Subject) -> Mapping[str, Any]:
    match peer:
        case PodRef():
            pod = evaluator.pod(peer)
            if pod.host_network:
                return {f"{way}Entities": ["host" if pod.node == subject.node else "remote-node"]}
            labels = _labels(evaluator, peer)
            if not (isinstance(mine, PodRef) and not subject.host and mine.namespace == peer.namespace):
                labels[f"k8s:{NAMESPACE_LABEL}"] = peer.namespace
            if pod.cluster != evaluator.options.cluster_name:
                labels[f"k8s:{CLUSTER_LABEL}"] = pod.cluster
            return {f"{way}Endpoints": [{"matchLabels": labels} if labels else {}]}
        case External(address):
            return {f"{way}CIDR": [f"{address}/{ipaddress.ip_address(address).max_prefixlen}"]}
        case Entity(EntityName.UNMANAGED):
            return {f"{way}Entities": ["unmanaged"]}
        case Entity(name):
            return {f"{way}Entities": [str(name)]}


def _ports(traffic: Traffic, *, narrow: bool) -> Mapping[str, Any]:
    protocol = traffic.protocol
    if protocol in (Protocol.ICMP, Protocol.ICMPV6):
        family = Family.IPV4 if protocol is Protocol.ICMP else Family.IPV6
        return {"icmps": [{"fields": [{"type": traffic.port, "family": {Family.IPV4: "IPv4", Family.IPV6: "IPv6"}[family]}]}]}
    if protocol in _L3_ONLY or not traffic.port:
        return {}
    item: dict[str, Any] = {"ports": [{"port": str(traffic.port), "protocol": protocol.value}]}
    if narrow and traffic.request is not None:
        item |= _request(traffic.request)
    return {"toPorts": [item]}


def _request(request: Request) -> Mapping[str, Any]:
    match request.kind:
        case RequestKind.HTTP | RequestKind.GRPC:
            method = request.method or ("POST" if request.kind is RequestKind.GRPC else "GET")
            path = _SPECIAL.sub(r"\\\1", normalised(request.path or "/")[0])
            return {"rules": {"http": [{"method": method, "path": path}]}}
        case RequestKind.LOOKUP:
            return {"rules": {"dns": [{"matchName": request.name}]}}
        case RequestKind.TLS:
            return {"serverNames": [request.name]}
        case _:
            return {}


def _name(mine: Peer, other: Peer, *, outward: bool) -> str:
    words = [_word(mine), "to" if outward else "from", _word(other)]
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")[:60]


def _word(peer: Peer) -> str:
    return peer.name if isinstance(peer, PodRef) else str(peer).replace(":", "-")


def _free_name(evaluator: Evaluator, name: str, namespace: str) -> str:
    taken = {each.name for each in _refs(evaluator) if each.namespace == namespace}
    return next(each for each in _numbered(name) if each not in taken)


def _refs(evaluator: Evaluator) -> Iterator[PolicyRef]:
    yield from (each.ref for each in evaluator.repository.enforced)
    yield from evaluator.repository.errors


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1
