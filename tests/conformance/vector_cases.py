"""Recorded scenarios as cases that a cluster can run: pods, policies and the engine's verdicts as expectations. Not the vectors' reader."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from msgspec import Struct

from harness.cases.hosts import is_address
from harness.model.traffic import Protocol
from harness.model.verdict import Decision
from harness.policy.options import Options
from harness.policy.parse import parse_policy
from harness.policy.rules import FQDNSelector, GroupsSelector, Parser, Policy
from tests.conformance.vectors import Vector

_NODES = {"n1": "a", "n2": "b"}
_ECHO = {"ICMP": (8, "icmp"), "ICMPv6": (128, "icmp6")}
_HOSTS = frozenset({"host", "remote-node", "kube-apiserver"})
_POD_KEYS = frozenset({"namespace", "name", "labels", "serviceAccount", "ports", "node"})


class Asked(Struct, frozen=True):
    """One flow of a scenario that the cluster can send."""

    source: str
    target: str
    protocol: str
    port: int
    egress: Decision
    ingress: Decision

    @property
    def sentence(self) -> str:
        target = f"[{self.target}]" if ":" in self.target else self.target
        if self.protocol in _ECHO:
            return f"{self.source} -> {target} {_ECHO[self.protocol][1]}"
        return f"{self.source} -> {target}:{self.port}/{self.protocol}"

    @property
    def expectation(self) -> dict[str, Any]:
        """The recorded verdict, with the side that drops and why."""
        for side, decision in (("egress", self.egress), ("ingress", self.ingress)):
            if decision.denies:
                return {"deny": self.sentence, "at": side, "reason": str(decision)}
        return {"allow": self.sentence}


def asked(vector: Vector, protocols: Iterable[str], *, outside: bool = False) -> list[Asked]:
    """The flows between different pods over protocols that the cluster carries, each once; with `outside` those to and from nodes, the
    API server and addresses of the world too."""
    found: dict[str, Asked] = {}
    for flow, verdict in zip(vector.document["flows"], vector.verdicts, strict=True):
        protocol, port = flow["protocol"], flow["port"]
        ends = [_end(flow[side], protocol, outside=outside) for side in ("src", "dst")]
        sent = port == _ECHO[protocol][0] if protocol in _ECHO else port > 0
        if all(ends) and ends[0] != ends[1] and protocol in protocols and sent:
            each = Asked(ends[0], ends[1], protocol, port, Decision(verdict["egress"]), Decision(verdict["ingress"]))
            found.setdefault(each.sentence, each)
    return list(found.values())


def _end(text: str, protocol: str, *, outside: bool) -> str:
    """Who that is in a case; '' for what no flow of a case can come from or go to."""
    kind, colon, address = text.partition(":")
    if kind == "world" and colon:
        own = ip_address(address)
        # A link-local address is nowhere in particular; an echo request goes to addresses of its own family.
        usable = not own.is_link_local and _ECHO.get(protocol, (0, ""))[1] != ("icmp6" if own.version == 4 else "icmp")
        return address if outside and usable else ""
    if "/" in text:
        return _key(text)
    return text if outside and text in _HOSTS else ""


def _key(text: str) -> str:
    return text.replace("/", "-")


def runnable(vector: Vector, options: Options) -> bool:
    """Whether a cluster without proxies, SCTP, cloud and other clusters decides the scenario as recorded."""
    document = vector.document
    if document.get("enforcement") not in (None, "", "default") or any(set(pod) - _POD_KEYS for pod in document["pods"]):
        return False
    if any("error" in verdict.values() for verdict in vector.verdicts) or vector.policy_errors:
        return False
    # An API server outside of the cluster is nothing that a case can say.
    if any("kubeAPIServer" in each for each in document["externals"]):
        return False
    # A real pod always has a service account.
    if any(pod["serviceAccount"] is None for pod in document["pods"]) and "serviceaccount" in str(document["policies"]):
        return False
    return all(_enforceable(parse_policy(each, options)) for each in document["policies"])


def _enforceable(policy: Policy) -> bool:
    return all(
        rule.auth is None
        and not rule.node
        and not rule.services
        and all(each.parser is Parser.NONE and all(port.protocol is not Protocol.SCTP for port in each.ports) for each in rule.ports)
        and not any(isinstance(each, FQDNSelector | GroupsSelector) for each in rule.peers or ())
        for rule in policy.rules
    )


def case_text(name: str, scenarios: Sequence[tuple[Vector, Sequence[Asked]]]) -> str:
    """One case for scenarios that share their pods: a baseline of all flows without policies, then a phase for each scenario."""
    document = scenarios[0][0].document
    flows = {each.sentence: each for _, mine in scenarios for each in mine}
    phases: dict[str, Any] = {"baseline": [{"allow": sentence} for sentence in flows]}
    before: list[str] = []
    for index, (vector, mine) in enumerate(scenarios):
        policies = [_renamed(each, f"s{index}-{place}") for place, each in enumerate(vector.document["policies"])]
        phases[f"s{index}"] = {
            **({"remove": before} if before else {}),
            **({"policies": policies} if policies else {}),
            "expect": [each.expectation for each in mine],
        }
        before = [_reference(each) for each in policies]
    endpoints = {_key(f"{pod['namespace']}/{pod['name']}"): _endpoint(pod, flows.values()) for pod in document["pods"]}
    # JSON, which is YAML: a plain `y` is a boolean to kubectl and so to the harness.
    return json.dumps(
        {"case": name, "namespaces": _namespaces(document), "endpoints": endpoints, **_externals(flows.values()), "phases": phases},
        indent=1,
    )


def _externals(flows: Iterable[Asked]) -> dict[str, Any]:
    """The addresses of the world that flows go to, each an external that serves what it is asked for."""
    ports: dict[str, dict[tuple[int, str], dict[str, Any]]] = {}
    for each in flows:
        if is_address(each.target):
            mine = ports.setdefault(each.target, {})
            if each.protocol not in _ECHO:
                mine[each.port, each.protocol] = {"port": each.port, "protocol": each.protocol}
    named = {
        f"outside-{number}": {"addresses": [address], "ports": list(mine.values())} for number, (address, mine) in enumerate(ports.items())
    }
    return {"externals": named} if named else {}


def _namespaces(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {key: value for key, value in labels.items() if key != "kubernetes.io/metadata.name"}
        for name, labels in document["namespaces"].items()
    }


def _renamed(policy: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {**policy, "metadata": {**policy["metadata"], "name": name}}


def _reference(policy: Mapping[str, Any]) -> str:
    metadata = policy["metadata"]
    return (
        f"{policy['kind']}/{metadata['namespace']}/{metadata['name']}"
        if "namespace" in metadata
        else f"{policy['kind']}/{metadata['name']}"
    )


def _endpoint(pod: Mapping[str, Any], flows: Iterable[Asked]) -> dict[str, Any]:
    """The pod, serving what it declares and what it is asked for."""
    name = _key(f"{pod['namespace']}/{pod['name']}")
    ports = {(each["protocol"], each["port"]): dict(each) for each in pod["ports"] if each["protocol"] in ("TCP", "UDP")}
    for each in flows:
        if each.target == name and each.protocol not in _ECHO:
            ports.setdefault((each.protocol, each.port), {"port": each.port, "protocol": each.protocol})
    return {
        "namespace": pod["namespace"],
        "labels": {key: str(value) for key, value in pod["labels"].items()},
        "node": _NODES.get(pod["node"], "a"),
        **({"serviceAccount": pod["serviceAccount"]} if pod["serviceAccount"] not in (None, "default") else {}),
        **({"ports": list(ports.values())} if ports else {}),
    }
