"""One row of the table: what was measured, the target, and how many times."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from msgspec import Struct


class Row(Struct, frozen=True):
    """`better` says which side of the target is good: `below` or `above`. `samples` are in `unit`, `value` is what is compared."""

    name: str
    value: float
    unit: str
    target: float
    better: str = "below"
    samples: tuple[float, ...] = ()
    note: str = ""

    @property
    def met(self) -> bool:
        return self.value < self.target if self.better == "below" else self.value > self.target


def median(name: str, samples: Sequence[float], unit: str, target: float, note: str = "") -> Row:
    """A row by the median of its samples."""
    return Row(name, statistics.median(samples), unit, target, samples=tuple(samples), note=note)


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample that `share` (0 to 1) of all samples do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
