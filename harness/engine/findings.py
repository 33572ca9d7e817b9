"""What is wrong or noteworthy about a phase's policies themselves: refused, inert, idle, not as declared, uncovered. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from harness.cases.case import Case, Phase, PolicyObject
from harness.engine.outcome import PolicyFinding
from harness.errors import Location
from harness.model.verdict import PolicyRef, PolicyStatus


def asked(phase: Phase) -> tuple[PolicyRef, ...]:
    """The policies whose standing matters to a phase: those it applies, and those it declares to be inert or refused."""
    refs = (*(policy.ref for policy in phase.apply), *phase.inert, *(rejected.ref for rejected in phase.rejected))
    return tuple(dict.fromkeys(refs))


def standing(phase: Phase, statuses: Mapping[PolicyRef, PolicyStatus]) -> tuple[PolicyFinding, ...]:
    """The inert gate: a policy that does nothing fails the phase that applies it, unless it is declared; so does a wrong declaration."""
    return tuple(finding for ref in asked(phase) for finding in _one(phase, ref, statuses.get(ref) or PolicyStatus(ref)))


def _one(phase: Phase, ref: PolicyRef, status: PolicyStatus) -> Iterator[PolicyFinding]:
    rejected = next((each for each in phase.rejected if each.ref == ref), None)
    inert = ref in phase.inert
    where = location(phase, ref)

    def finding(kind: str, message: str) -> PolicyFinding:
        return PolicyFinding(ref, kind, message, where, fails=True)

    if status.error is not None:
        if rejected is not None:
            if rejected.message and rejected.message not in str(status.error):
                yield finding("rejected", f"is refused as declared, but not with {rejected.message!r}: {status.error}")
        elif not inert:
            yield finding("rejected", f"is refused, so nothing of it is enforced: {status.error}")
        return
    if rejected is not None:
        yield finding("not-rejected", "is declared to be rejected, but it was accepted")
    if status.inert and not inert:
        yield finding("inert", f"does nothing: {status.inert}")
    elif inert and not status.inert:
        selects = f"; it selects {', '.join(status.selects)}" if status.selects else ""
        yield finding("not-inert", f"is declared inert, but it does something{selects}")
    for each in status.idle:
        yield PolicyFinding(ref, "idle", f"has a deny rule that denies nobody: {each}", where, fails=False)


def not_covered(phase: Phase, refs: Iterable[PolicyRef]) -> tuple[PolicyFinding, ...]:
    """Policies without which no expectation of the case would be decided otherwise: reported, not failed."""
    message = "no expectation would change without it: nothing here tests it"
    return tuple(PolicyFinding(ref, "uncovered", message, location(phase, ref), fails=False) for ref in refs)


def effective(phase: Phase, statuses: Mapping[PolicyRef, PolicyStatus]) -> tuple[PolicyRef, ...]:
    """The policies that the phase applies and that do something: only of these it can be asked whether a test covers them."""
    return tuple(
        dict.fromkeys(
            policy.ref for policy in phase.apply if (status := statuses.get(policy.ref)) is None or not (status.error or status.inert)
        )
    )


def later_phases(case: Case, phase: Phase) -> Sequence[Phase]:
    """The phases after this one."""
    return case.phases[case.phases.index(phase) + 1 :]


def location(phase: Phase, ref: PolicyRef) -> Location:
    """Where the policy was written, as far as the phase knows."""
    objects: tuple[PolicyObject, ...] = (*reversed(phase.apply), *reversed(phase.policies))
    return next((policy.location for policy in objects if policy.ref == ref), phase.location)
