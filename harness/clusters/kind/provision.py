"""Making, changing and removing a kind cluster with Cilium. Whatever goes wrong, an interrupt included, what was half made is gone again, and
a cluster that the harness did not make is left alone."""

from __future__ import annotations

import secrets
import time
from contextlib import suppress

from kubernetes.client.exceptions import ApiException
from msgspec import Struct

from harness.clusters.kind import nodes, outside, ready
from harness.clusters.kind.bundle import Bundle
from harness.clusters.kind.config import kind_config
from harness.clusters.kind.helm import Chart, Release
from harness.clusters.kind.profile import Profile
from harness.clusters.kind.program import HELM
from harness.clusters.kind.record import Record, Records
from harness.clusters.kind.steps import Tell, step
from harness.clusters.kind.wanted import Wanted
from harness.clusters.kubernetes.client import Api, translated
from harness.errors import ClusterError, ClusterTakenError, HarnessError, ProvisioningError

RELEASE = "cilium"
READY_WITHIN = 900.0
"""Seconds; images are pulled meanwhile."""
_CONFLICT = 409


class Status(Struct, frozen=True):
    """A cluster as it stands: absent, not ours, half made, stopped, not ready or ready. `late` is what is not ready."""

    name: str
    state: str
    record: Record | None = None
    late: tuple[str, ...] = ()


class Provisioner(Struct, frozen=True):
    """Works on the clusters of this machine's records. `within` is how long Cilium may take to become ready (s)."""

    records: Records
    tell: Tell
    within: float = READY_WITHIN

    def up(self, wanted: Wanted, *, stays: bool, change: bool) -> Record:
        """The cluster as it is wanted: made, or the one that is there. `stays`: no run removes it. `change`: one that is there may be
        upgraded; otherwise it must be as wanted already. ClusterError, with a bundle's path where there was something to collect."""
        profile = wanted.check()
        HELM.find()
        nodes.check_programs()
        with self.records.lock(wanted.name):
            record = self._ours(wanted.name)
            if record is None:
                return self._make(wanted, profile, stays=stays)
            if stays and not record.stays:
                record = self.records.note(record, stays=True)
            if wanted.is_met(record.cilium, record.profile, record.chart):
                return self._reuse(wanted, record)
            if not change:
                raise ClusterTakenError(
                    f"the kind cluster {wanted.name!r} has Cilium {record.cilium} with profile {record.profile}, not what was asked for",
                    hint="`harness cluster up` with the same options changes it; --kind-name makes another one beside it",
                )
            return self._upgrade(wanted, profile, record)

    def down(self, name: str) -> bool:
        """Remove it; False where there is none. ClusterTakenError where it is not the harness's."""
        nodes.check_programs()
        with self.records.lock(name):
            there = nodes.containers(name)
            record = self.records.read(name)
            if record is None and not there:
                return False
            if record is None or (there and not record.owns(there)):
                raise _taken(name)
            with step(self.tell, f"removing the kind cluster {name}"):
                self._remove(name)
            return True

    def release(self, wanted: Wanted) -> Release:
        """Cilium's, on this cluster."""
        return Release(RELEASE, wanted.namespace, wanted.context, self.records.kubeconfig(wanted.name))

    def api(self, wanted: Wanted) -> Api:
        return Api.connect(wanted.context, str(self.records.kubeconfig(wanted.name)))

    def status(self, name: str) -> Status:
        """How it stands; changes nothing."""
        nodes.check_programs()
        record, there = self.records.read(name), nodes.containers(name)
        if not there:
            return Status(name, "absent", record)
        if record is None or not record.owns(there):
            return Status(name, "not ours", None)
        if not record.ready:
            return Status(name, "half made", record)
        if not nodes.running(name):
            return Status(name, "stopped", record)
        wanted = Wanted(name)
        try:
            late = self._late(self.api(wanted), wanted)
        except ClusterError as error:
            late = [ready.Late("the API server", error.message)]
        return Status(name, "not ready" if late else "ready", record, tuple(map(str, late)))

    # What is there

    def _ours(self, name: str) -> Record | None:
        """The record of a whole cluster; None where there is none (any more). ClusterTakenError for somebody else's."""
        record, there = self.records.read(name), nodes.containers(name)
        if there and (record is None or not record.owns(there)):
            raise _taken(name)
        if record is not None and there and record.ready:
            return record
        if record is not None:
            if there:
                with step(self.tell, f"removing what a killed run left of the kind cluster {name}"):
                    self._remove(name)
            self.records.forget(name)
        return None

    def _reuse(self, wanted: Wanted, record: Record) -> Record:
        if not nodes.running(record.name):
            raise ClusterError(
                f"the nodes of the kind cluster {record.name!r} are not running",
                hint="`docker ps -a` shows them; `harness cluster down` and `up` make it anew",
            )
        if not self.records.kubeconfig(record.name).exists():
            nodes.export_kubeconfig(record.name, self.records.kubeconfig(record.name))
        self._wait(self.api(wanted), wanted, f"the kind cluster {record.name} is used again: its agents and Relay")
        return record

    # Changes

    def _make(self, wanted: Wanted, profile: Profile, *, stays: bool) -> Record:
        name, kubeconfig, source = wanted.name, self.records.kubeconfig(wanted.name), wanted.source.exact()
        record = Record(name, secrets.token_hex(4), stays, profile=profile.name, chart=wanted.chart, created=time.time())
        config = kind_config(wanted.config, name, profile, record.id, wanted.kubernetes)
        self.records.write(record)
        try:
            with step(self.tell, f"creating the kind cluster {name}"):
                nodes.create(name, config, kubeconfig)
            record = self.records.note(record, containers=nodes.containers(name))
            version = self._install(wanted, profile, source)
            return self.records.note(record, ready=True, cilium=version)
        except HarnessError as error:
            raise self._given_up(wanted, error) from error
        except BaseException:
            self.tell(f"removing the half-made kind cluster {name}")
            self._remove(name)
            raise

    def _given_up(self, wanted: Wanted, error: HarnessError) -> ProvisioningError:
        """Collects, removes, and says both; and what is still there, where it could not be removed."""
        removed, todo = "it is removed again", ""
        try:
            folder = self._collect(wanted, error)
        finally:
            try:
                self._remove(wanted.name)
            except HarnessError as failed:
                removed, todo = f"nor could it be removed ({failed.message})", f"`harness cluster down --name {wanted.name}` tries again; "
        return ProvisioningError(
            f"the kind cluster {wanted.name!r} could not be made; {removed}: {error.message}",
            hint=_and(error.hint, f"{todo}what it left is in {folder}"),
        )

    def _upgrade(self, wanted: Wanted, profile: Profile, record: Record) -> Record:
        former = Profile.find(record.profile) if record.profile != profile.name else profile
        if (former.dual_stack, former.replaces_kube_proxy) != (profile.dual_stack, profile.replaces_kube_proxy):
            raise ClusterTakenError(
                f"profile {profile.name} needs other nodes than the kind cluster {record.name!r} has (it was made for {record.profile})",
                hint="`harness cluster down` first, or make another with --name",
            )
        source = wanted.source.exact()
        before = self.release(wanted).deployed()
        try:
            version = self._install(wanted, profile, source)
        except HarnessError as error:
            folder = self._collect(wanted, error)
            now = self.release(wanted).deployed()
            if before is not None and now is not None and now.revision != before.revision:
                with step(self.tell, f"going back to Cilium {before.version}"):
                    self.release(wanted).roll_back(before.revision)
            raise ProvisioningError(
                f"Cilium of the kind cluster {record.name!r} could not be changed; it is Cilium {record.cilium} again: {error.message}",
                hint=_and(error.hint, f"what was seen is in {folder}"),
            ) from error
        return self.records.note(record, cilium=version, profile=profile.name, chart=wanted.chart)

    def _install(self, wanted: Wanted, profile: Profile, source: Chart) -> str:
        """The version that is installed, and ready."""
        api = self.api(wanted)
        if secret := profile.needs_ipsec_keys:
            _create_ipsec_keys(api, wanted.namespace, secret)
        with step(self.tell, f"installing Cilium {source.version} (profile {profile.name})"):
            deployed = self.release(wanted).apply(source, [profile.path], list(profile.settings(wanted.name)))
        self._wait(api, wanted, f"Cilium {deployed.version}: waiting for its agents and Relay")
        return deployed.version

    def _wait(self, api: Api, wanted: Wanted, what: str) -> None:
        with step(self.tell, what):
            ready.wait(what, lambda: self._late(api, wanted), self.within)

    def _late(self, api: Api, wanted: Wanted) -> list[ready.Late]:
        """Of Cilium, the nodes, and the DNS that cases need."""
        return [*ready.late_workloads(api, RELEASE, wanted.namespace), *ready.late_nodes(api), *ready.late_pods(api, "k8s-app=kube-dns")]

    def _remove(self, name: str) -> None:
        """The record goes last: whoever is killed meanwhile leaves what tells the next one."""
        outside.remove(name)
        nodes.delete(name, self.records.kubeconfig(name))
        self.records.forget(name)

    def _collect(self, wanted: Wanted, error: HarnessError) -> str:
        bundle = Bundle(self.records.folder, wanted.name)
        with step(self.tell, f"collecting what there is to see in {bundle.folder}"):
            bundle.note(str(error) + ("\n\n" + said if (said := getattr(error, "said", "")) else ""))
            bundle.add("values.yaml", self.release(wanted).values)
            bundle.add("node-logs/export.txt", lambda: nodes.export_logs(wanted.name, bundle.folder / "node-logs"))
            with suppress(ClusterError):  # there may be no API server yet: the nodes' logs say why
                bundle.add_cluster(self.api(wanted), (wanted.namespace,))
        return str(bundle.folder)


def _create_ipsec_keys(api: Api, namespace: str, name: str) -> None:
    """As Cilium's documentation makes it (security/network/encryption-ipsec): id 3, a key for each tunnel, AES-GCM with 128 bits of tag."""
    key = f"3+ rfc4106(gcm(aes)) {secrets.token_hex(20)} 128"
    body = {"metadata": {"name": name}, "type": "Opaque", "stringData": {"keys": key}}
    with translated(f"cannot create the secret {namespace}/{name}, which holds the keys of IPsec"):
        try:
            api.core.create_namespaced_secret(namespace, body, _request_timeout=30)
        except ApiException as error:
            if error.status != _CONFLICT:
                raise


def _taken(name: str) -> ClusterTakenError:
    return ClusterTakenError(
        f"there is a kind cluster {name!r} already, and the harness did not make it (here): it is left alone",
        hint=f"choose another name (--kind-name), run on it with --cluster=existing --kube-context=kind-{name}, "
        f"or remove it yourself: kind delete cluster --name {name}",
    )


def _and(*hints: str | None) -> str:
    return "; ".join(hint for hint in hints if hint)
