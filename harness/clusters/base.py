"""The contract of a place to run, and what it hands back: capabilities, placements, observations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct, field

from harness.cases.case import Case, Placement, PolicyObject
from harness.model.flow import Flow, LostEvents
from harness.model.probe import Probe, ProbeResult
from harness.model.verdict import PolicyRef, PolicyStatus


class Capabilities(Struct, frozen=True):
    """What a cluster can do. `features` are names of design's list; `lacking` says why for those it does not have."""

    cilium: str
    features: frozenset[str]
    lacking: Mapping[str, str] = field(default_factory=dict)


class Change(Struct, frozen=True):
    """One change of policies: removals first, then applications in order, seen by packets as one step."""

    remove: tuple[PolicyRef, ...] = ()
    apply: tuple[PolicyObject, ...] = ()


class Enforcement(Struct, frozen=True):
    """How it is known that a revision is enforced, and how long that took."""

    how: str
    seconds: float


class Observation(Struct, frozen=True, gc=False):
    """One probe with everything seen of it. `flows` are its own, by exact tuple and window, oldest first; `lost` are LostEvents
    that touch its window; `flows_on` is false where no flows could be had (`--hubble=off`)."""

    probe: Probe
    result: ProbeResult
    flows: tuple[Flow, ...] = ()
    lost: tuple[LostEvents, ...] = ()
    flows_on: bool = True


class Cluster(Protocol):
    """A place to run cases, one at a time. Every method may raise `ClusterError`; after `close` nothing of it is left."""

    name: str
    simulated: bool
    """True where no packet is sent: every report says so."""
    capabilities: Capabilities

    def prepare(self, case: Case) -> Placement:
        """Deploy the case's endpoints, services and externals, without policies; the former case's are gone first."""

    def apply(self, change: Change) -> int:
        """Change the policies; returns the revision to wait for. Refused policies do not raise: see `status`."""

    def wait(self, revision: int) -> Enforcement:
        """Until the revision is enforced on every endpoint of the case."""

    def probe(self, plan: Sequence[Probe]) -> Iterator[Observation]:
        """Send the probes concurrently; yields each when it and its flows are complete, in any order."""

    def status(self, policies: Sequence[PolicyRef]) -> Mapping[PolicyRef, PolicyStatus]:
        """How applied policies stand: refused, inert, what they select."""

    def flows(self) -> str | None:
        """The address of the Hubble Observer (a gRPC target), or None where there is none."""

    def release(self) -> None:
        """End the case: its endpoints and policies are gone, or going in the background."""

    def close(self) -> None:
        """Release everything. Idempotent."""


@runtime_checkable
class Noted(Protocol):
    """A cluster that found something at its start which a reader of any report of the run must know."""

    notes: Sequence[str]


@runtime_checkable
class Secluded(Protocol):
    """A cluster in which nobody looks up names but the probes of the run: what its nodes have learned, the probes' flows tell."""

    secluded: bool


@runtime_checkable
class Particular(Protocol):
    """A cluster that has some things for some cases only: externals that a user mapped, say."""

    def capabilities_for(self, case: Case) -> Capabilities:
        """What it can do for this case."""
