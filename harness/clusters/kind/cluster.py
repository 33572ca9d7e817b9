"""A kind cluster as a place to run cases: made or used again when the run begins, then as any Kubernetes cluster, removed by the last process
of the run that made it. One that `harness cluster up` made stays."""

from __future__ import annotations

from msgspec.structs import replace

from harness.cases.case import Case, Placement
from harness.clusters.base import Capabilities
from harness.clusters.kind.outside import Outside, entries
from harness.clusters.kind.provision import Provisioner
from harness.clusters.kind.record import Records
from harness.clusters.kind.steps import Tell
from harness.clusters.kind.wanted import Wanted
from harness.clusters.kubernetes import dns_entries
from harness.clusters.kubernetes.cluster import KubernetesCluster, KubernetesOptions
from harness.clusters.kubernetes.dns_entries import DnsEntries
from harness.errors import ClusterError


class KindCluster(KubernetesCluster):
    """The cluster is the harness's own, so host-network pods and clusterwide policies need no permission there."""

    name = "kind"

    def __init__(
        self, wanted: Wanted, options: KubernetesOptions, tell: Tell, *, keep: bool = False, records: Records | None = None
    ) -> None:
        """Provisions; that takes minutes where there is none yet. ClusterError; what was half made is gone then. `keep`: never remove it."""
        wanted.check()
        self._records = records or Records()
        self._provisioner = Provisioner(self._records, tell)
        self._wanted = wanted
        self._keep = keep
        self._mapped = bool(options.externals.mapped)
        """Whether the user says what is outside."""
        self._outside = Outside(wanted.name, options.pods.image, self._records)
        self._use = self._records.use(wanted.name)
        self._use.enter()
        try:
            self._provisioner.up(wanted, stays=False, change=False)
            super().__init__(
                replace(
                    options,
                    context=wanted.context,
                    kubeconfig=str(self._records.kubeconfig(wanted.name)),
                    allow_host=True,
                    allow_clusterwide=True,
                )
            )
            self._dns = DnsEntries(self._api, self.run.id)
        except BaseException:
            self._leave()
            raise

    def capabilities_for(self, case: Case) -> Capabilities:
        """What it can do; what the case calls external stands beside the cluster, and has its names, where it can be made to."""
        try:
            self._stand_in(case)
        except ClusterError as error:
            why = f"what is outside could not be made: {error.message}"
            return replace(self.capabilities, lacking={**self.capabilities.lacking, "externals": why})
        return super().capabilities_for(case)

    def prepare(self, case: Case) -> Placement:
        self._stand_in(case)
        return super().prepare(case)

    def close(self) -> None:
        """The last process out removes the cluster, where a run made it."""
        try:
            super().close()
        finally:
            self._leave()

    def how_to_enter(self) -> str:
        """For a person who kept it."""
        return (
            f"the kind cluster {self._wanted.name} stays:\n"
            f"    kubectl --kubeconfig {self._records.kubeconfig(self._wanted.name)} get pods -A\n"
            f"    harness cluster down --name {self._wanted.name}"
        )

    def _stand_in(self, case: Case) -> None:
        if not self._mapped:
            self._options = replace(self._options, externals=self._outside.externals(case))
            self._name(case)

    def _name(self, case: Case) -> None:
        """The cluster's DNS knows the names that the case asks for. ClusterError where it cannot be told."""
        wanted = entries(case, self._options.externals)
        if not wanted:
            return
        self._lifetime.begin()  # what is told now is to be found when this process is killed
        if self._dns.tell(wanted):
            dns_entries.wait_known(self._api, {each.name: frozenset(each.addresses) for each in wanted})

    def _leave(self) -> None:
        """Idempotent. Nobody enters while the last one is leaving."""
        with self._use.leaving() as last:
            record = self._records.read(self._wanted.name) if last else None
            if record is None:
                return
            if self._keep:
                self._records.note(record, stays=True)
            elif not record.stays:
                self._provisioner.down(self._wanted.name)
