"""A run's sign of life in the cluster: a Lease that each of its processes renews, in a namespace that bears the run's label as everything
else it makes. By it others can tell a run that lives, on whatever machine, from one that was killed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import kubernetes
from kubernetes.client.exceptions import ApiException
from msgspec import Struct

from harness.clusters.kubernetes import roster
from harness.clusters.kubernetes.client import API_ERRORS, Api, failure
from harness.clusters.kubernetes.run import RUN_LABEL, RunId

NAME = "policy-harness"
_RENEWED = 20.0
"""How often it is renewed (s)."""
_LASTS = 120
"""How long after its last renewal a run counts as living (s): clocks apart and an API server away for a minute are no death."""
_CONFLICT = 409


class Sign(Struct, frozen=True):
    """A Lease as it was read. `holder` is `host/boot` of the process that took it, `seconds` how long it lasts after `renewed`."""

    run: str
    holder: str
    renewed: datetime
    seconds: float

    @property
    def host(self) -> str:
        return self.holder.partition("/")[0]

    def lives(self, now: datetime) -> bool:
        """Whether the run has renewed it in time. A clock that is behind counts in its favour."""
        return now <= self.renewed + timedelta(seconds=self.seconds)


class Lease:
    """One process's part in the Lease of its run."""

    def __init__(self, api: Api, run: RunId) -> None:
        self._api = api
        self._run = run
        self._over = threading.Event()

    def take(self) -> None:
        """Create it, or find that another process of the run has; from now on it is renewed. ClusterError where that is not allowed."""
        namespace = namespace_of(self._run.id)
        labels = {RUN_LABEL: self._run.id}
        now = _text(datetime.now(UTC))
        spec = {"holderIdentity": holder(), "leaseDurationSeconds": _LASTS, "acquireTime": now, "renewTime": now}
        _create(self._api.core.create_namespace, {"metadata": {"name": namespace, "labels": labels}}, f"namespace {namespace}")
        _create(
            lambda body, **more: self._leases().create_namespaced_lease(namespace, body, **more),
            {"metadata": {"name": NAME, "labels": labels}, "spec": spec},
            f"lease {namespace}/{NAME}",
        )
        threading.Thread(target=self._renew, name=f"lease of run {self._run.id}", daemon=True).start()

    def end(self) -> None:
        """Renew it no more."""
        self._over.set()

    def _renew(self) -> None:
        while not self._over.wait(_RENEWED):
            body = {"spec": {"renewTime": _text(datetime.now(UTC))}}
            try:
                self._leases().patch_namespaced_lease(NAME, namespace_of(self._run.id), body, _request_timeout=10)
            except API_ERRORS:
                continue  # it lasts six times as long as this; whoever works with the cluster will say what is wrong with it

    def _leases(self) -> Any:
        return kubernetes.client.CoordinationV1Api(self._api.client)


def namespace_of(run: str) -> str:
    """The namespace of a run itself, beside those of its cases."""
    return f"{NAME}-{run}"


def holder() -> str:
    """This machine, for a person and for a program."""
    return f"{socket.gethostname()}/{roster.boot()}"


def read(api: Api) -> Mapping[str, Sign]:
    """The signs of all runs, by run. ClusterError where they may not be listed."""
    try:
        leases: Any = kubernetes.client.CoordinationV1Api(api.client)
        found = leases.list_lease_for_all_namespaces(label_selector=RUN_LABEL, _request_timeout=30)
    except API_ERRORS as error:
        raise failure("cannot list the leases of runs", error) from None
    signs = (_sign(each) for each in found.items if each.metadata.name == NAME)
    return {sign.run: sign for sign in signs if sign is not None}


def _sign(lease: Any) -> Sign | None:
    spec = lease.spec
    if spec is None or spec.renew_time is None:
        return None
    return Sign(lease.metadata.labels[RUN_LABEL], spec.holder_identity or "", spec.renew_time, float(spec.lease_duration_seconds or 0))


def _create(create: Any, body: Mapping[str, Any], what: str) -> None:
    try:
        create(body, _request_timeout=30)
    except API_ERRORS as error:
        if not (isinstance(error, ApiException) and error.status == _CONFLICT):
            raise failure(f"cannot create the {what}", error) from None


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
