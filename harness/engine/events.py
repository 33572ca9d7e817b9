"""What happened, in the past tense. Events are JSON values at heart (`dump`, `load`): xdist carries them to the controller."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, TypeAdapter

from harness.engine.outcome import CheckResult, Outcome, PolicyFinding
from harness.errors import Location


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """A place to run was opened."""

    cluster: str
    cilium: str
    simulated: bool
    hubble: str
    """require, auto (with the decision: auto:on, auto:off) or off."""
    worker: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    kind: Literal["run-started"] = "run-started"


@dataclass(frozen=True, slots=True, kw_only=True)
class CasePrepared:
    """The case's endpoints are up."""

    case: str
    file: str
    seconds: float
    kind: Literal["case-prepared"] = "case-prepared"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStarted:
    case: str
    phase: str
    location: Location
    replayed: bool = False
    kind: Literal["phase-started"] = "phase-started"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoliciesApplied:
    """The phase's change is enforced; `policies` are the texts (YAML) in force, by name, for reports."""

    case: str
    phase: str
    removed: tuple[str, ...]
    applied: tuple[str, ...]
    revision: int
    how: str
    seconds: float
    policies: dict[str, str] = field(default_factory=dict)
    replayed: bool = False
    kind: Literal["policies-applied"] = "policies-applied"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFinished:
    case: str
    phase: str
    result: CheckResult
    replayed: bool = False
    kind: Literal["check-finished"] = "check-finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseFinished:
    """`replayed`: this phase ran only because a later one was asked for by itself."""

    case: str
    phase: str
    outcome: Outcome
    seconds: float
    findings: tuple[PolicyFinding, ...] = ()
    error: str = ""
    """Not empty where the phase could not be run at all: the outcome is unknown."""
    checks: int = 0
    replayed: bool = False
    kind: Literal["phase-finished"] = "phase-finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseSkipped:
    case: str
    phase: str
    reason: str
    kind: Literal["phase-skipped"] = "phase-skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    cluster: str
    seconds: float
    worker: str = ""
    kind: Literal["run-finished"] = "run-finished"


Event: TypeAlias = Annotated[
    RunStarted | CasePrepared | PhaseStarted | PoliciesApplied | CheckFinished | PhaseFinished | PhaseSkipped | RunFinished,
    Discriminator("kind"),
]

_ADAPTER: TypeAdapter[Event] = TypeAdapter(Event)


def dump(event: Event) -> dict[str, Any]:
    """The event as JSON values only."""
    value: dict[str, Any] = _ADAPTER.dump_python(event, mode="json")
    return value


def load(value: dict[str, Any]) -> Event:
    """The inverse of `dump`."""
    return _ADAPTER.validate_python(value)


def dump_json(event: Event) -> str:
    """The event as JSON text: what crosses processes, and what files hold."""
    return _ADAPTER.dump_json(event).decode()


def load_json(text: str) -> Event:
    """The inverse of `dump_json`."""
    return _ADAPTER.validate_json(text)
