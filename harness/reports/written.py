"""Policies as they were written, read for near misses: `matchLabels` that differ by one value, a port or protocol that is not the
probed one, a namespace that nobody named. Not the policy model: what it cannot tell from the text alone, it leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from msgspec import Struct

from harness.cases.case import Case, EndpointSpec, PolicyObject
from harness.model.labels import NAMESPACE_LABEL
from harness.model.traffic import Direction
from harness.model.verdict import PolicyRef

KUBERNETES = "NetworkPolicy"
"""The kind of Kubernetes' own policies, whose fields are named differently."""
_NEAR = 0.75


class Party(Struct, frozen=True):
    """A side of a check as its endpoint was declared."""

    shown: str
    endpoint: EndpointSpec | None
    port: int | None
    protocol: str


class Rule(Struct, frozen=True):
    """One rule of one direction, with the words to read it by."""

    path: str
    body: Mapping[str, Any]
    side: Direction
    kubernetes: bool
    subject: Mapping[str, str]
    """The labels by which its spec selects whom it is about."""

    def is_about(self, party: Party) -> bool:
        return party.endpoint is not None and fits(self.subject, labels_of(party.endpoint))

    @property
    def peers(self) -> list[Any] | None:
        """The peer selectors, or None where the rule names none (everybody)."""
        key = (
            ("from" if self.side is Direction.INGRESS else "to")
            if self.kubernetes
            else f"{'from' if self.side is Direction.INGRESS else 'to'}Endpoints"
        )
        found = self.body.get(key)
        return found if isinstance(found, list) else None

    @property
    def others(self) -> bool:
        """Whether it names peers in another way (entities, CIDRs, services, names)."""
        return any(
            key.startswith(("from", "to")) and key not in ("fromEndpoints", "toEndpoints", "from", "to", "toPorts") for key in self.body
        )

    @property
    def ports(self) -> list[_Port]:
        """As written; empty: all."""
        lists = [self.body] if self.kubernetes else self.body.get("toPorts") or []
        default = "TCP" if self.kubernetes else "ANY"
        return [
            _Port(str(each.get("port", "")), int(each.get("endPort") or 0), str(each.get("protocol", default)))
            for one in lists
            for each in one.get("ports") or []
        ]


class _Port(Struct, frozen=True):
    port: str
    end: int
    protocol: str

    def __str__(self) -> str:
        return f"{self.port or 'every port'}{f'-{self.end}' if self.end else ''}/{self.protocol}"

    def fits(self, target: Party, name: str | None) -> bool:
        if self.protocol not in (target.protocol, "ANY"):
            return False
        if self.end and self.port.isdigit() and target.port is not None:
            return int(self.port) <= target.port <= self.end
        return self.port in (str(target.port), "", "0", name)


def specs(policy: PolicyObject) -> Iterator[tuple[Mapping[str, Any], str]]:
    if isinstance(spec := policy.document.get("spec"), Mapping):
        yield spec, ""
    for index, each in enumerate(policy.document.get("specs") or []):
        if isinstance(each, Mapping):
            yield each, f"specs[{index}] "


def rules(policy: PolicyObject, side: Direction) -> Iterator[Rule]:
    for spec, prefix in specs(policy):
        for index, body in enumerate(spec.get(side.value) or []):
            if isinstance(body, Mapping):
                subject = match_labels(spec.get("endpointSelector") or spec.get("podSelector"))
                yield Rule(
                    path=f"{prefix.strip()}{'.' if prefix else ''}{side}[{index}]",
                    body=body,
                    side=side,
                    kubernetes=policy.ref.kind == KUBERNETES,
                    subject={key: value for key, value in subject.items() if not key.startswith("io.")},
                )


def near_miss(rule: Rule, ref: PolicyRef, peer: Party, target: Party) -> str:
    """Why a rule just does not admit the peer: one thing is different. '' where more is, or nothing can be told."""
    try:
        fits = _port_fits(rule, target)
        if rule.others:
            return ""
        if rule.peers is None:
            return "" if fits else f"it is for {_ports(rule)}, not {probed_port(target)}"
        if peer.endpoint is None:
            return ""
        reasons = [peer_differs(each, ref, peer.endpoint, kubernetes=rule.kubernetes) for each in rule.peers]
    except (AttributeError, TypeError, ValueError):
        return ""  # a policy of another shape than the schema's has been refused elsewhere
    if None in reasons:
        return "" if fits else f"it admits {peer.shown}, but on {_ports(rule)}, not {probed_port(target)}"
    return next((reason for reason in reasons if reason), "") if fits else ""


def peer_differs(selector: Mapping[str, Any], ref: PolicyRef, peer: EndpointSpec, *, kubernetes: bool) -> str | None:
    """None: it selects the peer. A text: what is different. '': too much, or not known."""
    if kubernetes and ("ipBlock" in selector or "namespaceSelector" in selector):
        return ""
    body = selector.get("podSelector", {}) if kubernetes else selector
    if body.get("matchExpressions"):
        return ""
    wanted = match_labels(body)
    namespace = wanted.pop(NAMESPACE_LABEL, None)
    if any(key.startswith("io.") for key in wanted):
        return ""
    labels = labels_of(peer)
    if namespace is None and ref.namespace and peer.namespace != ref.namespace:
        there = f"`namespaceSelector` matching {peer.namespace}" if kubernetes else f"`{NAMESPACE_LABEL}: {peer.namespace}`"
        return (
            f"without a namespace it means its own ({ref.namespace}), and {peer.name} is in {peer.namespace}; add {there}"
            if fits(wanted, labels)
            else ""
        )
    if namespace is not None and namespace != peer.namespace:
        return f"it asks for namespace {namespace}, and {peer.name} is in {peer.namespace}" if fits(wanted, labels) else ""
    wrong = [key for key, value in wanted.items() if labels.get(key) != value]
    if not wrong:
        return None
    return (
        f"it asks for {shown({key: wanted[key] for key in wrong})}, and {peer.name} has {shown(labels) or 'no labels'}"
        if len(wrong) == 1
        else ""
    )


def width(rule: Rule) -> str:
    if rule.peers is None and not rule.ports:
        return "" if any(key.startswith(("from", "to")) for key in rule.body) else "it names no peer and no port, so everybody may"
    if rule.peers and any(not each for each in rule.peers):
        return "`{}` selects everything in the policy's own namespace" if not rule.kubernetes else "`{}` selects everything"
    return "it names no port, so every port" if not rule.ports else ""


# Labels and ports


def match_labels(selector: Any) -> dict[str, str]:
    found = selector.get("matchLabels") if isinstance(selector, Mapping) else None
    return {_key(key): str(value) for key, value in found.items()} if isinstance(found, Mapping) else {}


def _key(key: str) -> str:
    source, colon, rest = key.partition(":")
    return rest if colon and source in ("k8s", "any") else key


def labels_of(endpoint: EndpointSpec) -> Mapping[str, str]:
    return endpoint.labels


def fits(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())


def nearest_label(selector: Mapping[str, str], endpoints: Iterable[EndpointSpec]) -> str:
    """The endpoint whose labels are most like the selector's, where they are like it at all."""
    texts = {shown({key: value}): endpoint for endpoint in endpoints for key, value in endpoint.labels.items()}
    for key, value in selector.items():
        match = get_close_matches(shown({key: value}), texts, n=1, cutoff=_NEAR)
        if match and match[0] != shown({key: value}):
            return f"did you mean {match[0]} ({texts[match[0]].name})?"
    return ""


def shown(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels.items())


def party_named(text: str, case: Case) -> Party:
    """`backend[1]:8080/TCP ipv6` as reported, with the endpoint it names."""
    text = text.partition(" ")[0]
    rest, _, protocol = text.partition("/") if not text.startswith("service/") else (text, "", "")
    name, colon, port = rest.rpartition(":")
    if not colon or not port.isdigit():
        name, port = rest, ""
    bare = name.split("[")[0]
    return Party(name, case.endpoints.get(bare), int(port) if port else None, protocol or "TCP")


def probed_port(target: Party) -> str:
    return f"{target.port}/{target.protocol}" if target.port is not None else target.protocol


def _port_fits(rule: Rule, target: Party) -> bool:
    name = next((port.name for port in target.endpoint.ports if port.port == target.port), None) if target.endpoint else None
    return not rule.ports or any(port.fits(target, name) for port in rule.ports)


def _ports(rule: Rule) -> str:
    return " or ".join(map(str, rule.ports))


def listed_ports(endpoint: EndpointSpec | None) -> str:
    """`8080/TCP, 5353/UDP`, or ''."""
    return ", ".join(f"{port.port}/{port.protocol}" for port in endpoint.ports) if endpoint else ""
