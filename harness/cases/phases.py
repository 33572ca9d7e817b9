"""Phases: what each changes, what is in force then, what must hold. Cumulative, in the order written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from harness.cases.case import Expectation, Party, Phase, PolicyObject, Rejected
from harness.cases.document import Text
from harness.cases.expectations import resolve_expectation
from harness.cases.manifests import CIDR_GROUP, ManifestObject, Manifests, objects_of, policy_error
from harness.cases.model import CaseModel, ExpectationModel, PhaseModel
from harness.cases.names import Names
from harness.cases.otherwise import otherwise
from harness.cases.policies import InForce, find_policy
from harness.cases.requirements import phase_requirements, referenced_cidr_groups
from harness.model.cluster import CIDRGroup
from harness.model.traffic import Family, Protocol, Request
from harness.model.verdict import PolicyRef


class ResolvedPhases(Struct, frozen=True):
    phases: tuple[Phase, ...]
    cidr_groups: tuple[CIDRGroup, ...]


def resolve_phases(model: CaseModel, names: Names, folder: Path, manifests: Manifests) -> ResolvedPhases:
    """The phases of a case. Raises CaseError or PolicyFileError at the first mistake."""
    loaded = [(name, raw, list(_objects(raw, folder, manifests))) for name, raw in model.phases.items()]
    applied = [[each.policy(names.namespace) for each in objects if each.kind != CIDR_GROUP] for _, _, objects in loaded]
    groups = _Groups()
    in_force = InForce.nothing()
    refused: dict[PolicyRef, PolicyObject] = {}
    phases: list[Phase] = []
    for index, (name, raw, objects) in enumerate(loaded):
        _check_says_something(name, raw)
        groups.add(objects)
        titles = [str(each) for each in model.phases]
        elsewhere = _elsewhere(index, titles, applied, in_force)
        remove = tuple(find_policy(each, in_force.policies, where="in force before this phase", elsewhere=elsewhere) for each in raw.remove)
        _check_twice(raw.remove, remove)
        in_force = in_force.change(remove, applied[index])
        elsewhere = {**_elsewhere(index, titles, applied, in_force), **dict.fromkeys(remove, "it is removed in this phase")}
        groups.check(in_force, str(name))
        inert, rejected = _declared(raw, in_force, elsewhere)
        for each in rejected:
            refused[each.ref] = in_force.policies[each.ref]
        enforced = [each for each in in_force.policies.values() if refused.get(each.ref) is not each]
        phases.append(_phase(name, raw, names, in_force, elsewhere, remove, applied[index], enforced, inert, rejected, first=index == 0))
    return ResolvedPhases(tuple(phases), groups.all())


def _phase(
    name: Text,
    raw: PhaseModel,
    names: Names,
    in_force: InForce,
    elsewhere: dict[PolicyRef, str],
    remove: tuple[PolicyRef, ...],
    apply: Sequence[PolicyObject],
    enforced: Sequence[PolicyObject],
    inert: tuple[PolicyRef, ...],
    rejected: tuple[Rejected, ...],
    *,
    first: bool,
) -> Phase:
    written: list[tuple[ExpectationModel, Expectation]] = []
    for each in raw.expect:
        written += [(each, expectation) for expectation in resolve_expectation(each, names, in_force.policies, elsewhere=elsewhere)]
    _check_contradictions(written)
    expectations = tuple(expectation for _, expectation in written)
    if raw.otherwise is not None:
        expectations += otherwise(raw.otherwise, expectations, names, raw.table.place_of("otherwise").location)
        if not expectations:
            raise raw.table.place_of("otherwise").error(
                f"`otherwise: {raw.otherwise}` finds nobody to ask: phase `{name}` expects nothing",
                hint="it takes a pod as source, and a port that another endpoint or an external declares",
            )
    phase = Phase(
        name=str(name),
        location=name.location,
        remove=remove,
        apply=tuple(apply),
        expectations=expectations,
        inert=inert,
        rejected=rejected,
        baseline=first and not apply,
        policies=tuple(in_force.policies.values()),
    )
    return replace(phase, requires=phase_requirements(raw.requires, phase, names, enforced))


def _objects(raw: PhaseModel, folder: Path, manifests: Manifests) -> Iterator[ManifestObject]:
    for path in raw.apply:
        yield from manifests.objects(path, folder)
    for node in raw.policies:
        yield from objects_of(node)


def _check_says_something(name: Text, raw: PhaseModel) -> None:
    if not raw.table or ("expect" in raw.table and not raw.expect):
        raise name.error(f"phase `{name}` expects nothing", hint="give it expectations: `- allow: client -> server:8080`")


def _check_twice(texts: Sequence[Text], refs: Sequence[PolicyRef]) -> None:
    for index, (text, ref) in enumerate(zip(texts, refs, strict=True)):
        if ref in refs[:index]:
            raise text.error(f"policy `{text}` stands here twice", hint="remove one")


def _elsewhere(index: int, names: Sequence[str], applied: Sequence[Sequence[PolicyObject]], in_force: InForce) -> dict[PolicyRef, str]:
    """What to say of policies that the case knows and that are not in force."""
    said: dict[PolicyRef, str] = {}
    for at, policies in enumerate(applied):
        for policy in policies:
            if policy.ref not in in_force.policies:
                said[policy.ref] = f"it is removed before phase `{names[index]}`" if at < index else f"it is applied in phase `{names[at]}`"
    return said


def _declared(raw: PhaseModel, in_force: InForce, elsewhere: dict[PolicyRef, str]) -> tuple[tuple[PolicyRef, ...], tuple[Rejected, ...]]:
    def find(text: Text) -> PolicyRef:
        return find_policy(text, in_force.policies, where="in force in this phase", elsewhere=elsewhere)

    inert = tuple(find(each) for each in raw.inert)
    rejected = tuple(Rejected(find(each.policy), str(each.message or "")) for each in raw.rejected)
    _check_twice(raw.inert, inert)
    _check_twice([each.policy for each in raw.rejected], [each.ref for each in rejected])
    for text, ref in zip(raw.inert, inert, strict=True):
        if any(each.ref == ref for each in rejected):
            raise text.error(f"policy `{text}` is both `inert` and `rejected`", hint="a rejected policy is inert anyway: keep `rejected`")
    return inert, rejected


def _check_contradictions(written: Iterable[tuple[ExpectationModel, Expectation]]) -> None:
    """The same thing cannot be allowed and denied in one phase."""
    seen: dict[tuple[Party, Party, int | None, Protocol, Request | None, Family], Expectation] = {}
    for model, expectation in written:
        for key in _things(expectation):
            before = seen.setdefault(key, expectation)
            if before.action is not expectation.action:
                source, target, port = key[0], key[1], key[2]
                what = (
                    f"{source} -> {target}"
                    + (f":{port}" if port is not None else "")
                    + (f" {expectation.request}" if expectation.request else "")
                )
                said = f"line {before.location.line} says `{before.action}: {before.text}`"
                raise model.statement[1].error(
                    f"`{what}` cannot be both `{before.action}` and `{expectation.action}` in one phase", hint=said
                )


def _things(expectation: Expectation) -> Iterator[tuple[Party, Party, int | None, Protocol, Request | None, Family]]:
    for source in expectation.sources:
        for target in expectation.targets:
            for family in expectation.family.families:
                yield source, target.party, target.port, target.protocol, expectation.request, family


class _Groups:
    """The CiliumCIDRGroups of a case. They are there from its beginning to its end, so a policy may not have wanted one earlier."""

    def __init__(self) -> None:
        self._groups: dict[str, CIDRGroup] = {}
        self._missing: dict[str, str] = {}
        self._selected_in: str | None = None

    def add(self, objects: Iterable[ManifestObject]) -> None:
        for each in objects:
            if each.kind != CIDR_GROUP:
                continue
            group = each.cidr_group()
            known = self._groups.setdefault(group.name, group)
            if known != group:
                raise policy_error(
                    each.name_place,
                    f"{CIDR_GROUP} {group.name} has other contents in an earlier phase",
                    "groups stay as they are for a whole case: write two cases",
                )
            phase = self._missing.get(group.name) or (self._selected_in if known is group else None)
            if phase is not None:
                raise policy_error(
                    each.name_place,
                    f"a policy of the earlier phase `{phase}` refers to {CIDR_GROUP} {group.name}",
                    "groups are there for a whole case: apply it in the same phase as the policy, or write two cases",
                )

    def check(self, in_force: InForce, phase: str) -> None:
        """Notes which groups the policies of a phase want and do not have."""
        for policy in in_force.policies.values():
            names, selected = referenced_cidr_groups(policy.document)
            for name in names - self._groups.keys():
                self._missing.setdefault(name, phase)
            if selected and self._selected_in is None:
                self._selected_in = phase

    def all(self) -> tuple[CIDRGroup, ...]:
        return tuple(self._groups.values())
