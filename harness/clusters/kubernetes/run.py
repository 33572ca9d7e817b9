"""The marks that a run leaves on everything it creates, so that it, or a later sweep, finds it all again."""

from __future__ import annotations

import hashlib
import random
import secrets
import socket
import time
from collections.abc import Mapping

from msgspec import Struct, field

from harness.clusters.kubernetes import roster

RUN_LABEL = "policy-harness/run"
WORKER_LABEL = "policy-harness/worker"
CREATED_ANNOTATION = "policy-harness/created"
CASE_ANNOTATION = "policy-harness/case"
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""No vowels: no words by accident."""
_LENGTH = 6


class RunId(Struct, frozen=True):
    """A run on a cluster, and which worker of it this process is. `id` is unique among all runs with overwhelming probability (27^6)."""

    worker: str = ""
    id: str = field(default_factory=lambda: _drawn(secrets.SystemRandom()))

    @classmethod
    def of(cls, shared: str, worker: str) -> RunId:
        """The workers of one run are told apart by `worker` and have the id in common that `shared` gives, which is theirs alone. Those on
        another machine make a run of their own: nobody here could know whether they still live."""
        if not shared:
            return cls(worker)
        here = f"{shared} {socket.gethostname()} {roster.boot()} {roster.default_folder()}"
        # Any function of it would do; no secret is made.
        return cls(worker, _drawn(random.Random(hashlib.sha256(here.encode()).digest())))  # noqa: S311

    @property
    def labels(self) -> Mapping[str, str]:
        return {RUN_LABEL: self.id, **({WORKER_LABEL: self.worker} if self.worker else {})}

    def suffix(self, case: int) -> str:
        """What the names of a case's namespaces end in."""
        return f"{self.id}-{self.worker}-{case}" if self.worker else f"{self.id}-{case}"

    def annotations(self, case: str) -> Mapping[str, str]:
        """What tells a person, and a sweep, whose this is and how old."""
        return {CREATED_ANNOTATION: str(int(time.time())), CASE_ANNOTATION: case}


def _drawn(source: random.Random) -> str:
    return "".join(source.choice(_ALPHABET) for _ in range(_LENGTH))
