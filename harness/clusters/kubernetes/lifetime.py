"""The life of a run on a cluster, from the first thing that it creates to the last one out, who removes all that is left of it."""

from __future__ import annotations

from harness.clusters.kubernetes import leftovers
from harness.clusters.kubernetes.client import Api
from harness.clusters.kubernetes.lease import Lease
from harness.clusters.kubernetes.roster import Roster
from harness.clusters.kubernetes.run import RunId


class Lifetime:
    """One process's part in its run."""

    def __init__(self, api: Api, run: RunId) -> None:
        """Nothing is created yet."""
        self._api = api
        self._run = run
        self._roster = Roster(run.id)
        self._lease: Lease | None = None

    def begin(self) -> None:
        """Before anything is created: be one of the run, here and in the cluster. Idempotent."""
        if self._lease is None:
            self._roster.enter()
            self._lease = Lease(self._api, self._run)
            try:
                self._lease.take()
            except BaseException:
                self.end()
                raise

    def end(self) -> None:
        """Be no longer one of it. The last one removes what bears the run's label, also what workers left that crashed, and nothing else.
        Idempotent."""
        lease, self._lease = self._lease, None
        if lease is None:
            return
        lease.end()
        with self._roster.leaving() as last:
            if last:
                leftovers.remove(self._api, leftovers.find(self._api, self._run.id).leftovers)
