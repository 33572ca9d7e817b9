"""What a case and its phases need of a cluster: written, and derived from the content. Never fails: a policy may be malformed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness.cases.case import (
    Action,
    Case,
    Expectation,
    FamilyChoice,
    Party,
    PartyKind,
    Phase,
    PolicyObject,
    PortSpec,
    Reason,
    Requirements,
    Serve,
    Target,
)
from harness.cases.manifests import CCNP
from harness.cases.model import RequiresModel
from harness.cases.names import HOST, KUBE_APISERVER, REMOTE_NODE, WORLD, Names
from harness.model.traffic import Protocol, RequestKind

_OF_REQUEST = {
    RequestKind.HTTP: ("l7-http",),
    RequestKind.GRPC: ("l7-http", "grpc"),
    RequestKind.TLS: ("tls-sni",),
    RequestKind.LOOKUP: (),
    RequestKind.ICMP: ("icmp",),
    RequestKind.ICMP6: ("icmp",),
}
_OF_SERVE = {Serve.GRPC: ("l7-http", "grpc"), Serve.TLS: ("tls-sni",)}
_OF_BUILTIN = {
    WORLD: ("externals",),
    HOST: ("host-endpoints",),
    REMOTE_NODE: ("host-endpoints", "nodes-2"),
    KUBE_APISERVER: ("kube-apiserver",),
}
_OF_KEY = {
    "toFQDNs": "fqdn",
    "toServices": "to-services",
    "serverNames": "tls-sni",
    "terminatingTLS": "tls-sni",
    "originatingTLS": "tls-sni",
    "listener": "l7-http",
    "cidrGroupRef": "cidr-group",
    "cidrGroupSelector": "cidr-group",
    "icmps": "icmp",
}
"""Features that a field of a Cilium policy needs where it says something."""
_OF_RULES = {"http": "l7-http", "kafka": "l7-http", "l7": "l7-http", "l7proto": "l7-http", "dns": "l7-dns"}


def case_requirements(written: RequiresModel | None, case: Case) -> Requirements:
    """What must be there to deploy the case at all."""
    features: set[str] = set()
    endpoints = case.endpoints.values()
    features.update(_nodes((*case.nodes, *(each.node for each in endpoints if each.node))))
    if any(each.host_network for each in endpoints):
        features.add("host-endpoints")
    if case.externals:
        features.add("externals")
    if case.services:
        features.add("services")
    return _with_written(written, features)


def phase_requirements(written: RequiresModel | None, phase: Phase, names: Names, enforced: Iterable[PolicyObject]) -> Requirements:
    """What a phase needs: its expectations, and the policies enforced in it."""
    features: set[str] = set()
    for expectation in phase.expectations:
        features.update(_of_expectation(expectation, names))
    if phase.expectations and all(each.family is FamilyChoice.IPV6 for each in phase.expectations):
        features.add("ipv6")
    for policy in enforced:
        features.update(policy_features(policy.ref.kind, policy.document))
    if any(policy.ref.kind == CCNP for policy in phase.policies):
        features.add("clusterwide")  # also one that is to be refused is applied
    return _with_written(written, features)


def _with_written(written: RequiresModel | None, derived: set[str]) -> Requirements:
    if written is None:
        return Requirements("", frozenset(derived))
    return Requirements(written.cilium or "", frozenset((*derived, *written.features)))


def _nodes(used: Iterable[str]) -> Iterator[str]:
    """The feature for the highest node a case names: b needs two."""
    count = max((ord(each) - ord("a") + 1 for each in used), default=1)
    if count > 1:
        yield f"nodes-{count}"


def _of_expectation(expectation: Expectation, names: Names) -> Iterator[str]:
    if expectation.action is Action.AUDIT:
        yield "audit"
    if Reason.AUTH in expectation.reasons:
        yield "auth"
    if expectation.request is not None:
        yield from _OF_REQUEST[expectation.request.kind]
    for source in expectation.sources:
        yield from _of_party(source)
        if source.kind in (PartyKind.EXTERNAL, PartyKind.ADDRESS) or source == Party(PartyKind.BUILTIN, WORLD):
            yield "external-sources"
        if source == Party(PartyKind.BUILTIN, KUBE_APISERVER):
            yield "host-endpoints"
    for target in expectation.targets:
        yield from _of_party(target.party)
        if target.protocol is Protocol.SCTP:
            yield "sctp"
        if expectation.request is None:
            yield from _of_serve(target, names)


def _of_party(party: Party) -> tuple[str, ...]:
    match party.kind:
        case PartyKind.SERVICE:
            return ("services",)
        case PartyKind.EXTERNAL | PartyKind.ADDRESS:
            return ("externals",)
        case PartyKind.NAME:
            return () if party.name.endswith((".svc", ".cluster.local")) else ("externals",)
        case PartyKind.BUILTIN:
            return _OF_BUILTIN.get(party.name, ())
        case _:
            return ()


def _of_serve(target: Target, names: Names) -> Iterator[str]:
    """A bare target is probed by what its port speaks; behind a service, by what the backends' ports do."""
    service = names.service_of(target.party)
    if service is not None:
        ports = [each.target_port for each in service.ports if each.port == target.port and each.protocol is target.protocol]
        served = [port for backend in names.backends(service) for port in backend.ports if port.port in ports or port.name in ports]
    else:
        served = [port for port in names.ports_of(target.party) or () if isinstance(port, PortSpec) and port.port == target.port]
    for port in served:
        if port.protocol is target.protocol:
            yield from _OF_SERVE.get(port.serve, ())


def policy_features(kind: str, document: Mapping[str, Any]) -> frozenset[str]:
    """What enforcing a policy object needs. Reads whatever is there; what is no rule says nothing."""
    features: set[str] = {"clusterwide"} if kind == CCNP else set()
    specs = [document.get("spec")]
    more = document.get("specs")
    specs += more if isinstance(more, list) else []
    for spec in specs:
        if isinstance(spec, Mapping):
            if kind == CCNP and isinstance(spec.get("nodeSelector"), Mapping):
                features.add("host-firewall")
            features.update(_of_rules(spec))
    return frozenset(features)


def _of_rules(node: object, depth: int = 0) -> Iterator[str]:
    if depth > 32:
        return
    if isinstance(node, list):
        for each in node:
            yield from _of_rules(each, depth + 1)
    elif isinstance(node, Mapping):
        for key, value in node.items():
            if key in _OF_KEY and value:
                yield _OF_KEY[key]
            if key == "rules" and isinstance(value, Mapping):
                yield from (feature for name, feature in _OF_RULES.items() if value.get(name))
            if key == "authentication" and isinstance(value, Mapping) and value.get("mode") not in (None, "", "disabled"):
                yield "auth"
            if key == "protocol" and value == "SCTP":
                yield "sctp"
            if key not in ("matchLabels", "endpointSelector", "nodeSelector", "podSelector"):
                yield from _of_rules(value, depth + 1)


def referenced_cidr_groups(document: object) -> tuple[frozenset[str], bool]:
    """The CIDR groups that a policy refers to by name, and whether it selects any by labels."""
    names: set[str] = set()
    selects = False
    queue = [document]
    while queue:
        node = queue.pop()
        if isinstance(node, Mapping):
            name = node.get("cidrGroupRef")
            if isinstance(name, str) and name:
                names.add(name)
            selects = selects or isinstance(node.get("cidrGroupSelector"), Mapping)
            queue.extend(node.values())
        elif isinstance(node, list):
            queue.extend(node)
    return frozenset(names), selects
