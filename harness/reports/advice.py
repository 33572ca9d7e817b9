"""What most likely has to be changed, as one sentence, where the evidence allows to say so. Never part of a verdict.

Reads policies as they were written, for near misses only: `matchLabels` that differ by one value, a port or protocol that is not the
probed one, a namespace that nobody named. Says nothing where it would have to guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from harness.cases.case import Case, EndpointSpec, PolicyObject
from harness.engine.outcome import CheckResult, PolicyFinding
from harness.model.labels import NAMESPACE_LABEL
from harness.model.traffic import Direction
from harness.model.verdict import Decision, DirectionVerdict, PolicyRef

_KUBERNETES = "NetworkPolicy"
_ALLOW_ANY = "allow-any-"
"""How the rules begin that Cilium adds where no policy turns on default deny."""
_NEAR = 0.75


@dataclass(frozen=True, slots=True)
class _Party:
    """A side of a check as its endpoint was declared."""

    shown: str
    endpoint: EndpointSpec | None
    port: int | None
    protocol: str


def for_check(result: CheckResult, case: Case, policies: Sequence[PolicyObject]) -> str:
    """The sentence for a check that did not pass, or ''."""
    row = result.judgement.row
    source, target = _party(result.source, case), _party(result.target, case)
    if row == 1:
        return _unusable(result, target)
    prediction = result.prediction
    if prediction is None:
        return ""
    if row == 3:
        side = prediction.dropped_at
        if side is None:
            return ""
        verdict = prediction.egress if side is Direction.EGRESS else prediction.ingress
        subject, peer = (source, target) if side is Direction.EGRESS else (target, source)
        return _not_admitted(side, verdict, subject, peer, target, policies)
    if row == 6:
        return _admitted(prediction.egress, prediction.ingress, source, target, policies)
    if row == 5 and result.expectation.at and prediction.dropped_at is not None and prediction.dropped_at is not result.expectation.at:
        return f"it never gets to the {result.expectation.at} side: a policy of the other side drops it first; state `at: {prediction.dropped_at}` or allow it there"
    return ""


def for_finding(finding: PolicyFinding, case: Case, policies: Sequence[PolicyObject]) -> str:
    """The sentence for a policy that does nothing: the label that was probably meant."""
    policy = next((each for each in policies if each.ref == finding.ref), None)
    if policy is None or finding.kind not in ("inert", "rejected", "uncovered"):
        return ""
    for spec, path in _specs(policy):
        selector = _labels(spec.get("endpointSelector") or spec.get("podSelector"))
        local = [each for each in case.endpoints.values() if not policy.ref.namespace or each.namespace == policy.ref.namespace]
        if selector and not any(_fits(selector, _labels_of(each)) for each in local):
            if away := [each for each in case.endpoints.values() if _fits(selector, _labels_of(each))]:
                return f"a namespaced policy selects in its own namespace only ({policy.ref.namespace}); {away[0].name} is in {away[0].namespace}"
            if near := _nearest(selector, local):
                return f"{path}selects {_shown(selector)}; {near}"
        for direction in ("ingress", "egress"):
            if spec.get(direction) == [] and policy.ref.kind != _KUBERNETES:
                return f"`{direction}: []` enforces nothing; to deny all, write `{direction}: [{{}}]`"
    return ""


def _unusable(result: CheckResult, target: _Party) -> str:
    why = result.judgement.why
    if why.startswith("the baseline did not hold"):
        return "make the baseline phase pass first; nothing that follows can be told from a broken connection"
    if why.startswith(("refused", "the target is not proven alive")):
        declared = listed_ports(target.endpoint)
        return f"see that {target.shown} really serves {_port(target)}" + (f"; it declares {declared}" if declared else "")
    if "AUDIT" in why:
        return "take the endpoint out of audit mode, or state `audit:` instead"
    return ""


def _not_admitted(
    side: Direction, verdict: DirectionVerdict, subject: _Party, peer: _Party, target: _Party, policies: Sequence[PolicyObject]
) -> str:
    if verdict.decision is Decision.DENY_RULE:
        return "a deny rule wins over every allow: narrow it, or state `deny:`"
    if verdict.decision is not Decision.DEFAULT_DENY:
        return ""
    selecting = set(verdict.selecting)
    chosen = [each for each in policies if each.ref in selecting] or policies
    for policy in chosen:
        for rule in _rules(policy, side):
            if near := _near(rule, policy.ref, peer, target):
                return f"default deny at {side} of {subject.shown}; the nearest rule is {policy.ref} {rule.path}: {near}"
    return f"default deny at {side} of {subject.shown}: no rule admits {peer.shown} on {_port(target)}"


def _admitted(egress: DirectionVerdict, ingress: DirectionVerdict, source: _Party, target: _Party, policies: Sequence[PolicyObject]) -> str:
    admitting = [*ingress.rules, *egress.rules]
    if ingress.rules or egress.rules:
        widest = next((rule for rule in admitting if rule.policy.kind != "reserved"), None)
        if widest is None:
            if any(rule.path.startswith(_ALLOW_ANY) for rule in admitting):
                return _without_default_deny({Direction.EGRESS: egress, Direction.INGRESS: ingress}, policies)
            return "a rule that Cilium adds itself admits it (the node's own host reaches its pods)"
        written = next(
            (
                rule
                for policy in policies
                if policy.ref == widest.policy
                for side in Direction
                for rule in _rules(policy, side)
                if widest.path.split(".from[")[0].split(".to[")[0] == rule.path
            ),
            None,
        )
        wide = f": {_width(written)}" if written and _width(written) else ""
        return f"{widest} admits it{wide}; narrow that rule, or state `allow:`"
    for policy in policies:
        for spec, _ in _specs(policy):
            selects = _labels(spec.get("endpointSelector"))
            if (
                policy.ref.kind != _KUBERNETES
                and spec.get("ingress") == []
                and target.endpoint
                and _fits(selects, _labels_of(target.endpoint))
            ):
                return f"{policy.ref} has `ingress: []`, which enforces nothing; to deny all, write `ingress: [{{}}]`"
    if not ingress.enforced and not egress.enforced:
        return f"nothing is enforced: no policy in force restricts ingress of {target.shown} or egress of {source.shown}"
    return ""


def _without_default_deny(verdicts: Mapping[Direction, DirectionVerdict], policies: Sequence[PolicyObject]) -> str:
    """Policies that restrict, but were told not to turn on default deny: what no rule denies gets through."""
    for policy in policies:
        for spec, path in _specs(policy):
            told = spec.get("enableDefaultDeny")
            for side, verdict in verdicts.items():
                if isinstance(told, Mapping) and told.get(side.value) is False and policy.ref in verdict.selecting:
                    return f"{policy.ref} {path}says `enableDefaultDeny: {{{side}: false}}`, so what no rule denies is allowed; remove that, or state `allow:`"
    return ""


# Policies as written


@dataclass(frozen=True, slots=True)
class _Rule:
    path: str
    body: Mapping[str, Any]
    side: Direction
    kubernetes: bool

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


@dataclass(frozen=True, slots=True)
class _Port:
    port: str
    end: int
    protocol: str

    def __str__(self) -> str:
        return f"{self.port or 'every port'}{f'-{self.end}' if self.end else ''}/{self.protocol}"

    def fits(self, target: _Party, name: str | None) -> bool:
        if self.protocol not in (target.protocol, "ANY"):
            return False
        if self.end and self.port.isdigit() and target.port is not None:
            return int(self.port) <= target.port <= self.end
        return self.port in (str(target.port), "", "0", name)


def _specs(policy: PolicyObject) -> Iterator[tuple[Mapping[str, Any], str]]:
    if isinstance(spec := policy.document.get("spec"), Mapping):
        yield spec, ""
    for index, each in enumerate(policy.document.get("specs") or []):
        if isinstance(each, Mapping):
            yield each, f"specs[{index}] "


def _rules(policy: PolicyObject, side: Direction) -> Iterator[_Rule]:
    for spec, prefix in _specs(policy):
        for index, body in enumerate(spec.get(side.value) or []):
            if isinstance(body, Mapping):
                yield _Rule(f"{prefix.strip()}{'.' if prefix else ''}{side}[{index}]", body, side, policy.ref.kind == _KUBERNETES)


def _near(rule: _Rule, ref: PolicyRef, peer: _Party, target: _Party) -> str:
    """Why a rule just does not admit the peer: one thing is different. '' where more is, or nothing can be told."""
    try:
        fits = _port_fits(rule, target)
        if rule.others:
            return ""
        if rule.peers is None:
            return "" if fits else f"it is for {_ports(rule)}, not {_port(target)}"
        if peer.endpoint is None:
            return ""
        reasons = [_peer_differs(each, ref, peer.endpoint, kubernetes=rule.kubernetes) for each in rule.peers]
    except (AttributeError, TypeError, ValueError):
        return ""  # a policy of another shape than the schema's has been refused elsewhere
    if None in reasons:
        return "" if fits else f"it admits {peer.shown}, but on {_ports(rule)}, not {_port(target)}"
    return next((reason for reason in reasons if reason), "") if fits else ""


def _peer_differs(selector: Mapping[str, Any], ref: PolicyRef, peer: EndpointSpec, *, kubernetes: bool) -> str | None:
    """None: it selects the peer. A text: what is different. '': too much, or not known."""
    if kubernetes and ("ipBlock" in selector or "namespaceSelector" in selector):
        return ""
    body = selector.get("podSelector", {}) if kubernetes else selector
    if body.get("matchExpressions"):
        return ""
    wanted = _labels(body)
    namespace = wanted.pop(NAMESPACE_LABEL, None)
    if any(key.startswith("io.") for key in wanted):
        return ""
    labels = _labels_of(peer)
    if namespace is None and ref.namespace and peer.namespace != ref.namespace:
        there = f"`namespaceSelector` matching {peer.namespace}" if kubernetes else f"`{NAMESPACE_LABEL}: {peer.namespace}`"
        return (
            f"without a namespace it means its own ({ref.namespace}), and {peer.name} is in {peer.namespace}; add {there}"
            if _fits(wanted, labels)
            else ""
        )
    if namespace is not None and namespace != peer.namespace:
        return f"it asks for namespace {namespace}, and {peer.name} is in {peer.namespace}" if _fits(wanted, labels) else ""
    wrong = [key for key, value in wanted.items() if labels.get(key) != value]
    if not wrong:
        return None
    return (
        f"it asks for {_shown({key: wanted[key] for key in wrong})}, and {peer.name} has {_shown(labels) or 'no labels'}"
        if len(wrong) == 1
        else ""
    )


def _width(rule: _Rule) -> str:
    if rule.peers is None and not rule.ports:
        return "" if any(key.startswith(("from", "to")) for key in rule.body) else "it names no peer and no port, so everybody may"
    if rule.peers and any(not each for each in rule.peers):
        return "`{}` selects everything in the policy's own namespace" if not rule.kubernetes else "`{}` selects everything"
    return "it names no port, so every port" if not rule.ports else ""


# Labels and ports


def _labels(selector: Any) -> dict[str, str]:
    found = selector.get("matchLabels") if isinstance(selector, Mapping) else None
    return {_key(key): str(value) for key, value in found.items()} if isinstance(found, Mapping) else {}


def _key(key: str) -> str:
    source, colon, rest = key.partition(":")
    return rest if colon and source in ("k8s", "any") else key


def _labels_of(endpoint: EndpointSpec) -> Mapping[str, str]:
    return endpoint.labels


def _fits(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())


def _nearest(selector: Mapping[str, str], endpoints: Iterable[EndpointSpec]) -> str:
    """The endpoint whose labels are most like the selector's, where they are like it at all."""
    texts = {_shown({key: value}): endpoint for endpoint in endpoints for key, value in endpoint.labels.items()}
    for key, value in selector.items():
        match = get_close_matches(_shown({key: value}), texts, n=1, cutoff=_NEAR)
        if match and match[0] != _shown({key: value}):
            return f"did you mean {match[0]} ({texts[match[0]].name})?"
    return ""


def _shown(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels.items())


def _party(text: str, case: Case) -> _Party:
    """`backend[1]:8080/TCP ipv6` as reported, with the endpoint it names."""
    text = text.partition(" ")[0]
    rest, _, protocol = text.partition("/") if not text.startswith("service/") else (text, "", "")
    name, colon, port = rest.rpartition(":")
    if not colon or not port.isdigit():
        name, port = rest, ""
    bare = name.split("[")[0]
    return _Party(name, case.endpoints.get(bare), int(port) if port else None, protocol or "TCP")


def _port(target: _Party) -> str:
    return f"{target.port}/{target.protocol}" if target.port is not None else target.protocol


def _port_fits(rule: _Rule, target: _Party) -> bool:
    name = next((port.name for port in target.endpoint.ports if port.port == target.port), None) if target.endpoint else None
    return not rule.ports or any(port.fits(target, name) for port in rule.ports)


def _ports(rule: _Rule) -> str:
    return " or ".join(map(str, rule.ports))


def listed_ports(endpoint: EndpointSpec | None) -> str:
    """`8080/TCP, 5353/UDP`, or ''."""
    return ", ".join(f"{port.port}/{port.protocol}" for port in endpoint.ports) if endpoint else ""
