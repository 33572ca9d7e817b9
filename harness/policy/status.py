"""How a policy stands in a cluster: refused, what it selects, and why it does nothing, in words a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence

from harness.model.labels import ANY, K8S, NAMESPACE_LABEL, RESERVED, Label
from harness.model.verdict import PolicyRef, PolicyStatus
from harness.policy.identities import holds, security_relevant
from harness.policy.repository import Repository
from harness.policy.rules import FQDNSelector, LabelSelector, Operator, Policy, Requirement, Rule
from harness.policy.subjects import Subject, Subjects


def policy_status(ref: PolicyRef, repository: Repository, subjects: Subjects) -> PolicyStatus:
    """The status of a policy; one that was never applied selects nothing and says so."""
    error = repository.errors.get(ref)
    policy = repository.policy(ref)
    if policy is None:
        inert = f"refused ({error.stage.value}): {error.message}" if error else "not applied"
        return PolicyStatus(ref, error, inert=inert)
    # Cilium's own endpoints (health, init, ingress) count where the policy means them, not where it merely does not leave them out.
    own = () if not any(_names_reserved(rule.subject) for rule in policy.rules) else subjects.entities.values()
    candidates = (*subjects.pods.values(), *subjects.hosts.values(), *own)
    selected = [subject for subject in candidates if any(subjects.selected_by(rule, subject) for rule in policy.rules)]
    selects = tuple(sorted(subject.name for subject in selected))
    if error is not None:
        # An earlier version is still enforced; the object as it stands is not.
        return PolicyStatus(ref, error, selects, f"refused ({error.stage.value}): {error.message}")
    inert = _inert(policy, selected, subjects)
    return PolicyStatus(ref, None, selects, inert, () if inert else tuple(_idle(policy, selected, subjects)))


def _names_reserved(selector: LabelSelector) -> bool:
    return any(each.source == RESERVED for each in selector.requirements)


def _inert(policy: Policy, selected: Sequence[Subject], subjects: Subjects) -> str:
    if subjects.options.enforcement == "never":
        return "policy enforcement is switched off in this cluster (mode never)"
    if not selected:
        return _selects_nothing(policy, subjects)
    resolved = {rule.ref: rule for rule in subjects.rules}
    reasons: list[str] = []
    for rule in policy.rules:
        if not any(subjects.selected_by(rule, subject) for subject in selected):
            continue
        if rule.default_deny or _adds_entries(resolved[rule.ref], subjects):
            return ""
        reasons.append(f"{rule.ref.path} {_adds_nothing(resolved[rule.ref])}")
    return "; ".join([*policy.remarks, *reasons, "and it turns on no default deny"])


def _idle(policy: Policy, selected: Sequence[Subject], subjects: Subjects) -> Iterator[str]:
    """Deny rules that deny nobody. An allow rule that allows nobody is noticed by whoever expects to get through; nobody misses a deny
    where something else, mostly a default deny, happens to stop the same packets."""
    resolved = {rule.ref: rule for rule in subjects.rules}
    for rule in policy.rules:
        if (
            rule.deny
            and any(subjects.selected_by(rule, subject) for subject in selected)
            and not _adds_entries(resolved[rule.ref], subjects)
        ):
            yield f"{rule.ref.path} {_adds_nothing(resolved[rule.ref])}"


def _adds_entries(rule: Rule, subjects: Subjects) -> bool:
    if rule.peers is None or not (rule.peers or rule.ports):
        return False
    if rule.ports and not any(each.ports for each in rule.ports):
        return False
    if not rule.peers:
        return True
    return any((found := subjects.identities.select(peer)).certain | found.maybe for peer in rule.peers)


def _adds_nothing(rule: Rule) -> str:
    way = "from" if rule.direction.value == "ingress" else "to"
    verb = "denies" if rule.deny else "allows"
    if rule.peers is None:
        return f"has an empty {way}... list, which is nobody"
    if rule.ports and not any(each.ports for each in rule.ports):
        return f"{verb} no port: its port list is empty"
    if not rule.peers:
        return f"names no peer and no port, so it {verb} nothing"
    if any(isinstance(peer, FQDNSelector) for peer in rule.peers):
        return f"{verb} names that DNS taught no address for"
    return f"selects no peer that exists: {' or '.join(map(str, rule.peers))}"


def _selects_nothing(policy: Policy, subjects: Subjects) -> str:
    selectors = list(dict.fromkeys((rule.subject, rule.node) for rule in policy.rules))
    if all(node for _, node in selectors):
        if not subjects.options.host_firewall:
            return "selects nodes only, and the host firewall is off"
        return "selects no node: " + "; ".join(str(selector) for selector, _ in selectors)
    return "; ".join(_no_endpoint(selector, policy.ref.namespace, subjects) for selector, node in selectors if not node)


def _no_endpoint(selector: LabelSelector, namespace: str, subjects: Subjects) -> str:
    where = f"namespace {namespace}" if namespace else "the cluster"
    identities = subjects.identities
    candidates = [
        identities.identities[subject.position].labels
        for subject in subjects.pods.values()
        if not namespace or Label(K8S, NAMESPACE_LABEL, namespace) in identities.identities[subject.position].labels
    ]
    if not candidates:
        return f"selects no endpoint: {where} has no pod"
    wanted = [each for each in selector.requirements if not _injected(each, namespace)]
    for each in wanted:
        if each.source in (ANY, K8S) and not security_relevant(each.key) and each.operator in _POSITIVE:
            return f"selects no endpoint of {where}: label {each.key} is not part of an identity, so no selector on it ever matches"
    failing = [[each for each in wanted if not _satisfied(each, labels)] for labels in candidates]
    fewest = min(range(len(failing)), key=lambda at: (len(failing[at]), -_closeness(failing[at], candidates[at])))
    reasons = []
    for each in failing[fewest]:
        alone = all(not _satisfied(each, labels) for labels in candidates)
        near = _nearest(each, (label for labels in candidates for label in labels))
        no_pod = "no pod has" if alone else "no pod has at the same time"
        reasons.append(f"{no_pod} {each}" + (f" (nearest: {near})" if near else ""))
    return f"selects no endpoint of {where}: {', and '.join(reasons)}"


_POSITIVE = (Operator.EQUALS, Operator.IN, Operator.EXISTS)


def _injected(requirement: Requirement, namespace: str) -> bool:
    return requirement == Requirement(K8S, NAMESPACE_LABEL, Operator.EQUALS, (namespace,))


def _satisfied(requirement: Requirement, labels: Iterable[Label]) -> bool:
    return holds(LabelSelector((requirement,)), frozenset(labels))


def _closeness(failing: Sequence[Requirement], labels: Iterable[Label]) -> float:
    known = list(labels)
    return sum(max((_similarity(each, label) for label in known), default=0.0) for each in failing)


def _similarity(requirement: Requirement, label: Label) -> float:
    wanted = requirement.values[0] if requirement.values else ""
    return difflib.SequenceMatcher(None, f"{requirement.key}={wanted}", f"{label.key}={label.value}").ratio()


def _nearest(requirement: Requirement, labels: Iterable[Label]) -> str:
    """The label that comes nearest to what is wanted: the same key if there is one, else the most alike."""
    if requirement.operator not in _POSITIVE:
        return ""
    known = sorted(set(labels))
    pool = [label for label in known if label.key == requirement.key] or known
    best = max(pool, key=lambda label: _similarity(requirement, label), default=None)
    if best is None or (best.key != requirement.key and _similarity(requirement, best) < 0.6):
        return ""
    return f"{best.key}={best.value}" if best.value else best.key
