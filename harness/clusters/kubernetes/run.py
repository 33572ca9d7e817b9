"""The marks that a run leaves on everything it creates, so that it, or a later sweep, finds it all again."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

RUN_LABEL = "policy-harness/run"
WORKER_LABEL = "policy-harness/worker"
CREATED_ANNOTATION = "policy-harness/created"
CASE_ANNOTATION = "policy-harness/case"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""No vowels: no words by accident."""


@dataclass(frozen=True, slots=True)
class RunId:
    """One process's run on a cluster. `id` is unique among all runs with overwhelming probability (27^6)."""

    worker: str = ""
    id: str = field(default_factory=lambda: "".join(secrets.choice(_ALPHABET) for _ in range(6)))

    @property
    def labels(self) -> Mapping[str, str]:
        return {RUN_LABEL: self.id, **({WORKER_LABEL: self.worker} if self.worker else {})}

    def suffix(self, case: int) -> str:
        """What the names of a case's namespaces end in."""
        return f"{self.id}-{case}"

    def annotations(self, case: str) -> Mapping[str, str]:
        """What tells a person, and a sweep, whose this is and how old."""
        return {CREATED_ANNOTATION: str(int(time.time())), CASE_ANNOTATION: case}
