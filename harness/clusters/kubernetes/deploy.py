"""Creates a case's objects, many at once, and waits by watch until its pods run and its services have their backends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kubernetes import watch
from kubernetes.client.exceptions import ApiException
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from harness.clusters.kubernetes.client import API_ERRORS, Api, addresses, failure, said
from harness.clusters.kubernetes.objects import CaseObjects
from harness.errors import ClusterError, ImageUnavailableError
from harness.model.traffic import PodRef

_AT_ONCE = 8
_PULLING = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_NO_IMAGE = "cannot get its image"
_BROKEN = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff"})
_PAUSE = 0.2
"""Before a watch that broke is taken up again (s)."""


def deploy(api: Api, objects: CaseObjects, *, within: float = 120.0) -> Mapping[PodRef, Any]:
    """Create everything; returns the running pods as the API server has them, by the cluster's references. ClusterError says what is wrong
    with which object."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="deploy") as pool:
        _create_all(api, pool, [("namespace", body) for body in objects.namespaces])
        _create_all(
            api,
            pool,
            [
                *(("service_account", body) for body in objects.service_accounts),
                *(("config_map", body) for body in objects.config_maps),
                *(("secret", body) for body in objects.secrets),
                *(("service", body) for body in objects.services),
            ],
        )
        _create_all(api, pool, [("pod", body) for body in objects.pod_objects])
    spaces = sorted({ref.namespace for ref in objects.pods.values()})
    wanted = {space: {ref.name for ref in objects.pods.values() if ref.namespace == space} for space in spaces}
    until = time.monotonic() + within
    watchers = ThreadPoolExecutor(max(1, len(spaces)), thread_name_prefix="watch")
    try:
        found = _each(watchers, spaces, lambda space: running(api, space, wanted[space], until))
    finally:
        # Whoever is interrupted waits for what is being created, to delete it, and not for pods: the watches end as those go.
        watchers.shutdown(wait=False, cancel_futures=True)
    return {PodRef(space, name): pod for space, pods in zip(spaces, found, strict=True) for name, pod in pods.items()}


def _each(pool: ThreadPoolExecutor, items: Iterable[Any], work: Callable[[Any], Any]) -> list[Any]:
    return [future.result() for future in [pool.submit(work, item) for item in items]]


def _create_all(api: Api, pool: ThreadPoolExecutor, wanted: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    _each(pool, wanted, lambda each: _create(api, *each))


def _create(api: Api, kind: str, body: Mapping[str, Any]) -> None:
    """`kind` as the client's methods spell it."""
    metadata = body["metadata"]
    where = (metadata["namespace"],) if "namespace" in metadata else ()
    create = getattr(api.core, f"create_namespaced_{kind}" if where else f"create_{kind}")
    try:
        for attempt in _patiently():
            with attempt:
                create(*where, body, _request_timeout=30)
    except API_ERRORS as error:
        raise failure(f"cannot create the {kind.replace('_', ' ')} {'/'.join((*where, metadata['name']))}", error) from None


def _patiently() -> Retrying:
    """Only this is worth a retry: a new namespace has no default service account for a moment."""
    return Retrying(retry=retry_if_exception(no_account_yet), stop=stop_after_delay(15), wait=wait_fixed(0.1), reraise=True)


def no_account_yet(error: BaseException) -> bool:
    """Whether a pod is refused because the service account controller has not come to its namespace."""
    return isinstance(error, ApiException) and error.status == 403 and "serviceaccount" in said(error) and "not found" in said(error)


def running(api: Api, namespace: str, names: set[str], until: float) -> Mapping[str, Any]:
    """The pods once each runs with its addresses. A watch that ends is taken up again by a new list."""
    while True:
        try:
            listed = api.core.list_namespaced_pod(namespace, _request_timeout=30)
            pods = {pod.metadata.name: pod for pod in listed.items}
            if _all_there(pods, names):
                return pods
            left = until - time.monotonic()
            if left <= 0:
                raise ClusterError(_late(namespace, pods, names))
            watcher = watch.Watch()
            for event in watcher.stream(
                api.core.list_namespaced_pod,
                namespace,
                resource_version=listed.metadata.resource_version,
                timeout_seconds=max(1, int(left)),
            ):
                pod = event["object"]
                if event["type"] == "DELETED" and pod.metadata.name in names:
                    raise ClusterError(f"pod {namespace}/{pod.metadata.name} was deleted before it ran")
                pods[pod.metadata.name] = pod
                if _all_there(pods, names):
                    watcher.stop()
                    return pods
        except ApiException as error:
            if error.status != 410:
                raise failure(f"cannot watch the pods of {namespace}", error) from None
        except API_ERRORS as error:
            if time.monotonic() > until:
                raise failure(f"cannot watch the pods of {namespace}", error) from None
            time.sleep(_PAUSE)


def _all_there(pods: Mapping[str, Any], names: set[str]) -> bool:
    for name in names & pods.keys():
        if fault := fault_of(pods[name]):
            where = f"pod {pods[name].metadata.namespace}/{name}"
            if fault.startswith(_NO_IMAGE):
                raise ImageUnavailableError(f"{where} {fault}", hint="pass --image with one that the nodes can pull: any with python3")
            raise ClusterError(f"{where} {fault}")
    return all(name in pods and _runs(pods[name]) for name in names)


def _runs(pod: Any) -> bool:
    statuses = pod.status.container_statuses or []
    return (
        pod.status.phase == "Running" and bool(addresses(pod.status, "pod")) and all(status.ready for status in statuses) and bool(statuses)
    )


def fault_of(pod: Any) -> str:
    """What keeps a pod from ever running, as the end of a sentence; '' where nothing does (yet)."""
    if pod.status.phase == "Failed" and pod.status.reason:  # evicted, say: that the containers ended is only what followed
        return f"failed: {pod.status.reason}: {pod.status.message or 'no message'}"
    for status in pod.status.container_statuses or []:
        waiting = status.state.waiting
        if waiting is not None and waiting.reason in _PULLING:
            return f"{_NO_IMAGE} {status.image}: {waiting.reason}: {waiting.message or 'no message'}"
        if waiting is not None and waiting.reason in _BROKEN:
            return f"cannot start: {waiting.reason}: {waiting.message or 'no message'}"
        ended = status.state.terminated
        if ended is not None:
            return f"ended with code {ended.exit_code} ({ended.reason or 'no reason'}){': ' + ended.message if ended.message else ''}"
    if pod.status.phase == "Failed":
        return f"failed: {pod.status.message or 'no message'}"
    return ""


def _late(namespace: str, pods: Mapping[str, Any], names: set[str]) -> str:
    for name in sorted(names):
        pod = pods.get(name)
        if pod is None:
            return f"pod {namespace}/{name} was created and is gone"
        if not _runs(pod):
            conditions = [each for each in pod.status.conditions or [] if each.status == "False" and each.message]
            why = "; ".join(f"{each.reason}: {each.message}" for each in conditions)
            return f"pod {namespace}/{name} does not run in time ({pod.status.phase}{': ' + why if why else ''})"
    return f"the pods of {namespace} do not run in time"


def delete_namespaces(api: Api, names: Sequence[str]) -> None:
    """Ask for their deletion and do not wait for it: it takes seconds, and no name comes again. ClusterError for those that were refused."""
    refused = []
    for name in names:
        try:
            api.core.delete_namespace(name, propagation_policy="Background", _request_timeout=10)
        except API_ERRORS as error:
            if not (isinstance(error, ApiException) and error.status in (404, 409)):
                refused.append(f"{name}: {said(error)}")
    if refused:
        raise ClusterError("cannot delete " + "; ".join(refused), hint="`kubectl delete namespace -l policy-harness/run` finds all of them")
