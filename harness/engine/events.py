"""What happened, in the past tense. Events are JSON values at heart (`dump`, `load`): xdist carries them to the controller."""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
from msgspec import Struct, field

from harness.engine.outcome import CheckResult, Outcome, PolicyFinding
from harness.errors import Location


class RunStarted(Struct, frozen=True, kw_only=True, tag_field="kind", tag="run-started"):
    """A place to run was opened."""

    cluster: str
    cilium: str
    simulated: bool
    hubble: str
    """require, auto (with the decision: auto:on, auto:off) or off."""
    worker: str = ""
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


class CasePrepared(Struct, frozen=True, kw_only=True, tag_field="kind", tag="case-prepared"):
    """The case's endpoints are up."""

    case: str
    file: str
    seconds: float


class PhaseStarted(Struct, frozen=True, kw_only=True, tag_field="kind", tag="phase-started"):
    case: str
    phase: str
    location: Location
    replayed: bool = False


class PoliciesApplied(Struct, frozen=True, kw_only=True, tag_field="kind", tag="policies-applied"):
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


class CheckFinished(Struct, frozen=True, kw_only=True, tag_field="kind", tag="check-finished"):
    case: str
    phase: str
    result: CheckResult
    replayed: bool = False


class PhaseFinished(Struct, frozen=True, kw_only=True, tag_field="kind", tag="phase-finished"):
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


class PhaseSkipped(Struct, frozen=True, kw_only=True, tag_field="kind", tag="phase-skipped"):
    case: str
    phase: str
    reason: str


class RunFinished(Struct, frozen=True, kw_only=True, tag_field="kind", tag="run-finished"):
    cluster: str
    seconds: float
    worker: str = ""


Event: TypeAlias = RunStarted | CasePrepared | PhaseStarted | PoliciesApplied | CheckFinished | PhaseFinished | PhaseSkipped | RunFinished

_DECODER = msgspec.json.Decoder(Event)


def dump(event: Event) -> dict[str, Any]:
    """The event as JSON values only."""
    value: dict[str, Any] = msgspec.to_builtins(event)
    return value


def load(value: dict[str, Any]) -> Event:
    """The inverse of `dump`."""
    event: Event = msgspec.convert(value, Event)
    return event


def dump_json(event: Event) -> str:
    """The event as JSON text: what crosses processes, and what files hold."""
    return msgspec.json.encode(event).decode()


def load_json(text: str) -> Event:
    """The inverse of `dump_json`."""
    event: Event = _DECODER.decode(text)
    return event
