"""Waiting until what was deployed is ready, by what the API server says; and saying what is not, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import kubernetes
from msgspec import Struct
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from harness.clusters.kubernetes.client import API_ERRORS, Api, said
from harness.errors import ProvisioningError

_RELEASE = "meta.helm.sh/release-name"
_NAMESPACE = "meta.helm.sh/release-namespace"
_EVERY = 1.0
_NAMED = 6


class Late(Struct, frozen=True):
    """Something that is not ready. `why` is what its pods say."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what} ({self.why})" if self.why else self.what


def wait(what: str, late: Callable[[], list[Late]], within: float) -> None:
    """Until nothing is late. Raises `ProvisioningError` naming what still is. Errors of the API server count as not ready: it may restart."""

    def look() -> list[Late]:
        try:
            return late()
        except API_ERRORS as error:
            return [Late("the API server", said(error))]

    patience = Retrying(retry=retry_if_result(bool), stop=stop_after_delay(within), wait=wait_fixed(_EVERY))
    try:
        patience(look)
    except RetryError as error:
        left: list[Late] = error.last_attempt.result()
        named = "; ".join(map(str, left[:_NAMED])) + (f"; and {len(left) - _NAMED} more" if len(left) > _NAMED else "")
        raise ProvisioningError(f"{what}: after {within:g} s not ready: {named}") from None


def late_nodes(api: Api) -> list[Late]:
    """Nodes that are not Ready, with what their kubelet says."""
    found = []
    for node in api.core.list_node(_request_timeout=10).items:
        ready = next((each for each in node.status.conditions or [] if each.type == "Ready"), None)
        if ready is None or ready.status != "True":
            found.append(Late(f"node {node.metadata.name}", (ready.message or ready.reason or "") if ready else "it has not said so yet"))
    return found


def late_workloads(api: Api, release: str, namespace: str) -> list[Late]:
    """Those of a Helm release, in whatever namespace, that have not all their pods, new and ready."""
    apps = kubernetes.client.AppsV1Api(api.client)
    lists = {
        "daemonset": apps.list_daemon_set_for_all_namespaces,
        "deployment": apps.list_deployment_for_all_namespaces,
        "statefulset": apps.list_stateful_set_for_all_namespaces,
    }
    return [
        Late(f"{kind} {each.metadata.namespace}/{each.metadata.name}: {counts}", _pods(api, each))
        for kind, list_ in lists.items()
        for each in _items(list_)
        if _of(each.metadata, release, namespace) and (counts := (_daemons(each) if kind == "daemonset" else _replicas(each)))
    ]


def late_pods(api: Api, selector: str) -> list[Late]:
    """Pods with these labels, of any namespace, that are not Ready."""
    return [
        Late(f"pod {pod.metadata.namespace}/{pod.metadata.name}", "; ".join(_complaints(pod)))
        for pod in api.core.list_pod_for_all_namespaces(label_selector=selector, _request_timeout=10).items
        if not any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions or [])
    ]


def _of(metadata: Any, release: str, namespace: str) -> bool:
    annotations = metadata.annotations or {}
    return annotations.get(_RELEASE) == release and annotations.get(_NAMESPACE) == namespace


def _daemons(each: Any) -> str:
    status, new = each.status, (each.status.observed_generation or 0) >= each.metadata.generation
    wanted = status.desired_number_scheduled or 0
    ready = min(status.number_ready or 0, status.updated_number_scheduled or 0)
    return "" if new and wanted and ready >= wanted else f"{ready} of {wanted} ready"


def _replicas(each: Any) -> str:
    status, new = each.status, (each.status.observed_generation or 0) >= each.metadata.generation
    wanted = 1 if each.spec.replicas is None else each.spec.replicas
    ready = min(status.ready_replicas or 0, status.updated_replicas or 0)
    old = (status.replicas or 0) > (status.updated_replicas or 0)
    return "" if new and ready >= wanted and not old else f"{ready} of {wanted} ready"


def _pods(api: Api, workload: Any) -> str:
    selector = ",".join(f"{key}={value}" for key, value in (workload.spec.selector.match_labels or {}).items())
    pods = api.core.list_namespaced_pod(workload.metadata.namespace, label_selector=selector, _request_timeout=10).items
    return "; ".join(dict.fromkeys(why for pod in pods for why in _complaints(pod)))


def _complaints(pod: Any) -> Iterator[str]:
    for each in [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]:
        waiting = each.state.waiting if each.state else None
        if waiting is not None and waiting.reason not in (None, "PodInitializing", "ContainerCreating"):
            yield f"{each.name}: {waiting.reason}" + (f": {waiting.message}" if waiting.message else "")
    for each in pod.status.conditions or []:
        if each.type == "PodScheduled" and each.status != "True":
            yield f"not scheduled: {each.message}"


def _items(list_: Any) -> list[Any]:
    return list(list_(_request_timeout=10).items)
