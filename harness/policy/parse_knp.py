"""Kubernetes NetworkPolicy documents to typed rules, as Cilium reads them, after the checks of the API server.

Sources: Kubernetes pkg/apis/networking/validation and Cilium pkg/k8s/network_policy.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.model.labels import CLUSTER_LABEL, K8S, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX
from harness.model.traffic import Direction, Protocol
from harness.model.verdict import PolicyRef, PolicyStage, RuleRef
from harness.policy import schema, validate
from harness.policy.entities import ALL
from harness.policy.options import Options
from harness.policy.prefix import parse_prefix
from harness.policy.rules import CIDRSelector, LabelSelector, PeerSelector, PortProtocol, PortRule, Rule
from harness.policy.schema import Check, Problem, array, integer, mapping, record, string
from harness.policy.selector import SelectorDraft, kubernetes_draft
from harness.policy.validate import Refusal

Document = Mapping[str, Any]

_PORT_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)
_OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist")


def _port_check(value: Any, path: str) -> Problem | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return path, f'Invalid value: "{schema.type_name(value)}": must be of type integer or string'
    if isinstance(value, int):
        return None if 1 <= value <= 65535 else (path, f"Invalid value: {value}: must be between 1 and 65535, inclusive")
    if 0 < len(value) <= 15 and _PORT_NAME.fullmatch(value) and any(c.isalpha() for c in value):
        return None
    hint = f" (write {value} without quotes for a number)" if value.isdigit() else ""
    return path, f'Invalid value: "{value}": a port name is up to 15 of a-z, 0-9 and single inner dashes, with at least one letter{hint}'


def _cidr_check(value: Any, path: str) -> Problem | None:
    if not isinstance(value, str):
        return path, f'Invalid value: "{schema.type_name(value)}": must be of type string'
    try:
        parse_prefix(value)
    except ValueError:
        return path, f'Invalid value: "{value}": must be a valid CIDR value (e.g. "10.0.0.0/8")'
    return None


def _selector_check(value: Any, path: str) -> Problem | None:
    problem = _SELECTOR_SHAPE(value, path)
    if problem is not None:
        return problem
    try:
        for key, each in (value.get("matchLabels") or {}).items():
            validate.qualified_name(key, f"{path}.matchLabels")
            validate.label_value(each, f"{path}.matchLabels.{key}")
        for index, each in enumerate(value.get("matchExpressions") or ()):
            where = f"{path}.matchExpressions[{index}]"
            values = each.get("values") or ()
            validate.expression(each["operator"], values, where)
            validate.qualified_name(each["key"], f"{where}.key")
            for at, text in enumerate(values):
                validate.label_value(text, f"{where}.values[{at}]")
    except Refusal as refusal:
        return refusal.error.path, refusal.error.message.removeprefix(f"{refusal.error.path}: ")
    return None


def _block_check(value: Any, path: str) -> Problem | None:
    problem = _BLOCK_SHAPE(value, path)
    if problem is not None:
        return problem
    whole = parse_prefix(value["cidr"])
    for index, text in enumerate(value.get("except") or ()):
        each = parse_prefix(text)
        if not whole.contains(each) or each.length == whole.length:
            return f"{path}.except[{index}]", f'Invalid value: "{text}": must be a strict subset of `cidr` {value["cidr"]}'
    return None


def _peer_check(value: Any, path: str) -> Problem | None:
    problem = _PEER_SHAPE(value, path)
    if problem is not None:
        return problem
    selectors = value.get("podSelector") is not None or value.get("namespaceSelector") is not None
    if value.get("ipBlock") is None:
        return None if selectors else (path, "Required value: must specify a peer (podSelector, namespaceSelector or ipBlock)")
    return (path, "Forbidden: may not specify both ipBlock and another peer") if selectors else None


def _network_port_check(value: Any, path: str) -> Problem | None:
    problem = _NETWORK_PORT_SHAPE(value, path)
    if problem is not None or value.get("endPort") is None:
        return problem
    port, end = value.get("port"), value["endPort"]
    if port is None:
        return f"{path}.endPort", f"Invalid value: {end}: may not be specified when `port` is not specified"
    if isinstance(port, str):
        return f"{path}.endPort", f"Invalid value: {end}: may not be specified when `port` is non-numeric"
    if end < port:
        return f"{path}.endPort", f"Invalid value: {end}: must be greater than or equal to `port`"
    return None


_SELECTOR_SHAPE = record({
    "matchLabels": mapping(string()),
    "matchExpressions": array(
        record({"key": string(), "operator": string(enum=_OPERATORS), "values": array(string())}, required=("key", "operator"))
    ),
})
_BLOCK_SHAPE = record({"cidr": _cidr_check, "except": array(_cidr_check)}, required=("cidr",))
_PEER_SHAPE = record({"podSelector": _selector_check, "namespaceSelector": _selector_check, "ipBlock": _block_check})
_NETWORK_PORT_SHAPE = record({
    "port": _port_check,
    "endPort": integer(minimum=1, maximum=65535),
    "protocol": string(enum=("TCP", "UDP", "SCTP")),
})


def _rule_check(peers: str) -> Check:
    return record({peers: array(_peer_check), "ports": array(_network_port_check)})


NETWORK_POLICY_SPEC = record({
    "podSelector": _selector_check,
    "policyTypes": array(string(enum=("Ingress", "Egress")), max_items=2),
    "ingress": array(_rule_check("from")),
    "egress": array(_rule_check("to")),
})


def parse_knp(spec: Any, ref: PolicyRef, options: Options) -> tuple[Rule, ...]:
    """The rules of a NetworkPolicy's spec, one per peer. Raises Refusal."""
    spec = {} if spec is None else spec
    problem = NETWORK_POLICY_SPEC(spec, "spec")
    if problem is not None:
        raise Refusal(PolicyStage.SCHEMA, *problem)
    ingress = list(_rules(spec.get("ingress") or (), Direction.INGRESS, ref, options))
    egress = list(_rules(spec.get("egress") or (), Direction.EGRESS, ref, options))
    # Rules count whatever policyTypes says; policyTypes only adds default deny where there are no rules.
    types = spec.get("policyTypes") or ()
    if not ingress and ("Ingress" in types or "Egress" not in types):
        ingress.append((Direction.INGRESS, "ingress", None, ()))
    if not egress and "Egress" in types:
        egress.append((Direction.EGRESS, "egress", None, ()))
    subject = kubernetes_draft(spec.get("podSelector"))
    subject.match(K8S, NAMESPACE_LABEL, ref.namespace)
    selector = subject.done()
    return tuple(
        Rule(
            ref=RuleRef(ref, path),
            direction=direction,
            deny=False,
            default_deny=True,
            subject=selector,
            node=False,
            peers=peers,
            ports=ports,
            order=(f"netpol/{ref.namespace}/{ref.name}", index),
            endpoints=all(isinstance(each, LabelSelector) for each in peers or ()),
        )
        for index, (direction, path, peers, ports) in enumerate([*ingress, *egress])
    )


_Element = tuple[Direction, str, tuple[PeerSelector, ...] | None, tuple[PortRule, ...]]


def _rules(items: Sequence[Document], direction: Direction, ref: PolicyRef, options: Options) -> Iterator[_Element]:
    way = "from" if direction is Direction.INGRESS else "to"
    for index, each in enumerate(items):
        path = f"{direction.value}[{index}]"
        ports = tuple(PortRule((_port(port),)) for port in each.get("ports") or ())
        peers = each.get(way) or ()
        if not peers:
            yield direction, path, (ALL,), ports
        for at, peer in enumerate(peers):
            yield direction, f"{path}.{way}[{at}]", (_peer(peer, ref.namespace, options),), ports


def _port(document: Document) -> PortProtocol:
    protocol = Protocol(document.get("protocol") or "TCP")
    port = document.get("port")
    if isinstance(port, str):
        return PortProtocol(0, protocol, name=port)
    return PortProtocol(port or 0, protocol, end_port=int(document.get("endPort") or 0))


def _peer(document: Document, namespace: str, options: Options) -> PeerSelector:
    block = document.get("ipBlock")
    if block is not None:
        return CIDRSelector(parse_prefix(block["cidr"]), tuple(parse_prefix(each) for each in block.get("except") or ()))
    pods = kubernetes_draft(document.get("podSelector"))
    if options.default_local_cluster and not _names_cluster(pods):
        pods.match(K8S, CLUSTER_LABEL, options.cluster_name)
    namespaces = document.get("namespaceSelector")
    if namespaces is None:
        pods.match(K8S, NAMESPACE_LABEL, namespace)
        return pods.done()
    draft = kubernetes_draft(namespaces, NAMESPACE_LABELS_PREFIX)
    if not draft.match_labels and not draft.expressions:
        draft.exists(K8S, NAMESPACE_LABEL)
    draft.match_labels |= pods.match_labels
    draft.expressions += pods.expressions
    return draft.done()


def _names_cluster(pods: SelectorDraft) -> bool:
    return bool(pods.match_labels.get((K8S, CLUSTER_LABEL))) or any(each.key == CLUSTER_LABEL for each in pods.expressions)
