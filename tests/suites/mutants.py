"""Mutants of a case: the case with one policy, rule, peer, port, name or request dropped, or one value changed. Pure; runs nothing.

A mutation is made where a phase applies the policy, and holds until a later phase replaces or removes it, as a mistake in that
manifest would.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from harness.cases.case import Case, Phase, PolicyObject
from harness.model.labels import NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, SERVICE_ACCOUNT_LABEL
from harness.model.verdict import PolicyRef

Document: TypeAlias = dict[str, Any]
Path: TypeAlias = tuple[str | int, ...]

RULES = ("ingress", "ingressDeny", "egress", "egressDeny")
SELECTORS = ("endpointSelector", "nodeSelector", "podSelector", "namespaceSelector")


class Kind(StrEnum):
    POLICY = "policy dropped"
    RULE = "rule dropped"
    PEER = "peer dropped"
    PORT = "port dropped"
    REQUEST = "rule for requests dropped"
    SWAP = "selector value swapped for another of the case"
    TYPO = "selector value mistyped"


class Mutant(Struct, frozen=True):
    """A case with one mistake in it. `first` is the index of the first phase that the mistake can affect.

    `idle`: the policy is declared inert or rejected there, so by its nature most of what it says changes nothing.
    """

    case: Case
    kind: Kind
    first: int
    ref: PolicyRef
    path: str
    idle: bool = False

    def __str__(self) -> str:
        where = f" {self.path}" if self.path else ""
        return f"{self.case.location.file} :: {self.case.name} :: {self.case.phases[self.first].name}: {self.ref.name}{where}: {self.kind}"


def mutants(case: Case) -> Iterator[Mutant]:
    """Every mutant of the case, in the order of its text."""
    values = _values(case)
    for index, phase in enumerate(case.phases):
        meant_to_do_nothing = {*phase.inert, *(rejected.ref for rejected in phase.rejected)}
        for position, policy in enumerate(phase.apply):
            idle = policy.ref in meant_to_do_nothing
            yield Mutant(_mutate(case, index, position, None), Kind.POLICY, index, policy.ref, "", idle)
            for kind, path, document in variants(policy.document, values):
                yield Mutant(_mutate(case, index, position, document), kind, index, policy.ref, path, idle)


def variants(document: Mapping[str, Any], values: Mapping[str, Sequence[str]]) -> Iterator[tuple[Kind, str, Document]]:
    """Every mutation inside one policy object, with its path. `values` are those the case has, by selector key without source."""
    for base, spec in _specs(document):
        for list_name in RULES:
            for index, rule in enumerate(spec.get(list_name) or ()):
                here = (*base, list_name, index)
                yield Kind.RULE, _text(here), _without(document, here)
                for kind, path in _parts(rule or {}):
                    yield kind, _text((*here, *path)), _without(document, (*here, *path))
    for path, key, value in _selector_values(document, ()):
        others = [each for each in values.get(key.partition(":")[2] or key, ()) if each != value]
        if others:
            yield Kind.SWAP, _text(path), _with(document, path, others[0])
        yield Kind.TYPO, _text(path), _with(document, path, f"{value}x")


def _specs(document: Mapping[str, Any]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    if document.get("spec"):
        yield ("spec",), document["spec"]
    for index, spec in enumerate(document.get("specs") or ()):
        yield ("specs", index), spec


def _parts(rule: Mapping[str, Any]) -> Iterator[tuple[Kind, Path]]:
    """The items of a rule: peers (and their exceptions), port items and their ports."""
    for name, items in rule.items():
        if not isinstance(items, list):
            continue
        kind = Kind.PORT if name in ("toPorts", "ports", "icmps") else Kind.PEER
        for index, item in enumerate(items):
            yield kind, (name, index)
            if isinstance(item, dict):
                for path in _nested(item):
                    yield kind, (name, index, *path)
                for path in _requests(item):
                    yield Kind.REQUEST, (name, index, *path)


def _nested(item: Mapping[str, Any]) -> Iterator[Path]:
    """Lists inside an item: `except` of a CIDR or an ipBlock, `ports` of toPorts, `fields` of icmps."""
    for index, _ in enumerate((item.get("ipBlock") or {}).get("except") or ()):
        yield "ipBlock", "except", index
    for name in ("except", "ports", "fields"):
        for index, _ in enumerate(item.get(name) or ()):
            yield name, index


def _requests(item: Mapping[str, Any]) -> Iterator[Path]:
    """What a port item says of requests: its rules for HTTP and DNS, each item of what an HTTP rule asks for, the server names."""
    for name, rules in (item.get("rules") or {}).items():
        for index, rule in enumerate(rules):
            yield "rules", name, index
            for part in (each for each in rule or {} if each not in ("matchName", "matchPattern")):
                yield "rules", name, index, part
    for index, _ in enumerate(item.get("serverNames") or ()):
        yield "serverNames", index


def _selector_values(node: Any, path: Path) -> Iterator[tuple[Path, str, str]]:
    """Every value of every label selector: its path, its key and the value."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _selector_values(item, (*path, index))
    if not isinstance(node, dict):
        return
    for key, value in (node.get("matchLabels") or {}).items():
        yield (*path, "matchLabels", key), _key(path, key), value
    for index, expression in enumerate(node.get("matchExpressions") or ()):
        for number, value in enumerate(expression.get("values") or ()):
            yield (*path, "matchExpressions", index, "values", number), _key(path, expression["key"]), value
    for name, child in node.items():
        if name not in ("matchLabels", "matchExpressions", "metadata"):
            yield from _selector_values(child, (*path, name))


def _key(path: Path, key: str) -> str:
    """The key as `_values` has it: a namespaceSelector's are labels of the namespace."""
    return NAMESPACE_LABELS_PREFIX + key if path and path[-1] == "namespaceSelector" else key


def _values(case: Case) -> Mapping[str, Sequence[str]]:
    """What each selector key can be in this case, sorted: labels of pods and of namespaces, namespaces, service accounts."""
    found: dict[str, set[str]] = {NAMESPACE_LABEL: set(case.namespaces)}
    for labels in case.namespaces.values():
        for key, value in labels.items():
            found.setdefault(NAMESPACE_LABELS_PREFIX + key, set()).add(value)
    for endpoint in case.endpoints.values():
        for key, value in endpoint.labels.items():
            found.setdefault(key, set()).add(value)
        if endpoint.service_account:
            found.setdefault(SERVICE_ACCOUNT_LABEL, set()).add(endpoint.service_account)
    return {key: sorted(values) for key, values in found.items()}


def _without(document: Mapping[str, Any], path: Path) -> Document:
    changed = copy.deepcopy(dict(document))
    parent: Any = changed
    for step in path[:-1]:
        parent = parent[step]
    del parent[path[-1]]
    return changed


def _with(document: Mapping[str, Any], path: Path, value: str) -> Document:
    changed = copy.deepcopy(dict(document))
    parent: Any = changed
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    return changed


def _text(path: Path) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def _mutate(case: Case, index: int, position: int, document: Document | None) -> Case:
    """The case whose phase `index` applies another document at `position`, or none."""
    phase = case.phases[index]
    applied = list(phase.apply)
    if document is None:
        del applied[position]
    else:
        applied[position] = replace(applied[position], document=document)
    phases = [*case.phases[:index], replace(phase, apply=tuple(applied)), *case.phases[index + 1 :]]
    return replace(case, phases=tuple(_in_force(phases)))


def _in_force(phases: Sequence[Phase]) -> Iterator[Phase]:
    """The phases with what is in force in each worked out anew. What is not there need not be removed."""
    policies: dict[PolicyRef, PolicyObject] = {}
    for phase in phases:
        removed = tuple(ref for ref in phase.remove if ref in policies)
        for ref in removed:
            del policies[ref]
        policies.update((policy.ref, policy) for policy in phase.apply)
        yield replace(phase, remove=removed, policies=tuple(policies.values()))
