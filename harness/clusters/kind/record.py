"""What this machine remembers of the kind clusters that the harness made: one file each, beside its kubeconfig, and a lock for whoever changes
the cluster. A cluster is the harness's own where, and only where, its node containers are those of a record."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from msgspec import Struct
from msgspec.structs import asdict, replace

from harness.clusters.kubernetes.roster import Roster, default_folder, is_in
from harness.errors import ClusterError

LOCK_WAIT = 1800.0
"""Seconds to wait for another process that makes or removes the same cluster."""


class Record(Struct, frozen=True):
    """A cluster. `stays`: made by `harness cluster up`, so no run removes it. `ready` False: it is being made, or who made it was killed."""

    name: str
    id: str
    stays: bool
    ready: bool = False
    cilium: str = ""
    """The version of the chart that is installed."""
    profile: str = ""
    chart: str = ""
    """Where the chart came from; '' for Cilium's own."""
    created: float = 0.0
    """Seconds since 1970."""
    containers: tuple[str, ...] = ()
    """The ids of its node containers; () before kind has made them."""

    def owns(self, containers: Sequence[str]) -> bool:
        """Whether these node containers are the harness's. While they are being made there was none of this name before, under the same lock."""
        return set(containers) <= set(self.containers) if self.containers else not self.ready


class Records:
    """The folder of them: the user's state folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder().parent / "kind"
        self.folder.mkdir(parents=True, exist_ok=True)

    def kubeconfig(self, name: str) -> Path:
        """The cluster's own: the user's is left as it is."""
        return self.folder / f"{name}.kubeconfig"

    def read(self, name: str) -> Record | None:
        """None where the harness made no cluster of this name."""
        try:
            said = json.loads(self._file(name).read_text(encoding="utf-8"))
            return Record(**{**said, "containers": tuple(said["containers"])})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ClusterError(
                f"the record of the kind cluster {name!r} cannot be read: {error}",
                hint=f"remove {self._file(name)}, and the cluster with `kind delete cluster --name {name}`",
            ) from None

    def names(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("*.json"))

    def write(self, record: Record) -> Record:
        """Whole or not at all: a killed process leaves the former one."""
        fresh = self._file(record.name).with_suffix(".new")
        fresh.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
        fresh.replace(self._file(record.name))
        return record

    def note(self, record: Record, **changes: object) -> Record:
        """The record with these fields changed, written."""
        return self.write(replace(record, **changes))

    def forget(self, name: str) -> None:
        for path in (self._file(name), self.kubeconfig(name)):
            path.unlink(missing_ok=True)

    def use(self, name: str) -> Roster:
        """Which processes run cases on it."""
        return Roster(f"kind-{name}", self.folder)

    def in_use(self, name: str) -> bool:
        """Whether any process does."""
        return bool(is_in(f"kind-{name}", self.folder))

    @contextmanager
    def lock(self, name: str, within: float = LOCK_WAIT) -> Iterator[None]:
        """One process at a time makes, changes or removes a cluster; others wait for it."""
        try:
            with FileLock(self.folder / f"{name}.lock", timeout=within):
                yield
        except Timeout:
            raise ClusterError(
                f"another process has been changing the kind cluster {name!r} for {within:g} s",
                hint="wait for it, or use another --kind-name",
            ) from None

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"
