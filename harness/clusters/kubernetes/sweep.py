"""Which runs have left something on a cluster, and which of them live. What is left comes from `leftovers`, life from the run's `lease`, or
more exactly, for runs of this machine, from their `roster`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from harness.clusters.kubernetes import lease, leftovers, roster
from harness.clusters.kubernetes.client import Api
from harness.clusters.kubernetes.leftovers import Leftover

UNTOLD = timedelta(hours=1)
"""How old a run must be of whose life nothing tells, to be taken for dead."""
_WITHIN = 120.0
_PAUSE = 0.5


class Run(Struct, frozen=True):
    """One run by what it left. `here`: whether a process of it lives on this machine, None where that cannot be known."""

    id: str
    leftovers: tuple[Leftover, ...]
    sign: lease.Sign | None = None
    here: bool | None = None

    @property
    def created(self) -> datetime:
        return min(each.created for each in self.leftovers)

    def lives(self, now: datetime) -> bool | None:
        """None where nothing tells: it has no lease, and was not of this machine."""
        if self.here is not None:
            return self.here
        return self.sign.lives(now) if self.sign is not None else None

    def is_orphaned(self, now: datetime, older_than: timedelta | None = None) -> bool:
        """Whether it is dead, and begun at least `older_than` ago; where nothing tells, it must at least be an hour old."""
        lives = self.lives(now)
        least = older_than if older_than is not None else (UNTOLD if lives is None else timedelta())
        return not lives and now - self.created >= least


class Survey(Struct, frozen=True):
    """`unseen` says of which kinds nothing is known, and why."""

    runs: tuple[Run, ...]
    unseen: tuple[str, ...] = ()


def survey(api: Api) -> Survey:
    """Every run that has something on the cluster that is not going already, oldest first. ClusterError where that may not be listed."""
    found = leftovers.find(api)
    signs = lease.read(api)  # afterwards: a run takes its lease before it creates anything else
    by_run: dict[str, list[Leftover]] = {}
    for each in found.leftovers:
        if not each.going:
            by_run.setdefault(each.run, []).append(each)
    runs = [Run(run, tuple(those), signs.get(run), roster.is_in(run)) for run, those in by_run.items()]
    return Survey(tuple(sorted(runs, key=lambda run: (run.created, run.id))), found.unseen)


def sweep(api: Api, runs: Sequence[Run]) -> tuple[Leftover, ...]:
    """Remove what these runs left and wait until it is gone, at most two minutes; returns what is still going then. ClusterError names
    what the cluster would not delete."""
    leftovers.remove(api, (each for run in runs for each in run.leftovers))
    for run in runs:
        roster.forget(run.id)
    asked = {(each.kind.name, each.name) for run in runs for each in run.leftovers}
    until = time.monotonic() + _WITHIN
    while True:
        left = tuple(each for each in leftovers.find(api).leftovers if (each.kind.name, each.name) in asked)
        if not left or time.monotonic() > until:
            return left
        time.sleep(_PAUSE)


def now() -> datetime:
    """The time that ages are counted to."""
    return datetime.now(UTC)
