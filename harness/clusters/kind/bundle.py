"""What is kept for a person when a cluster could not be made: pods, events, the agents' status, values, logs. Collects what it can get, and
says in the bundle itself what it could not. No secrets."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from harness.clusters.kubernetes.client import API_ERRORS, Api, said
from harness.clusters.kubernetes.exec import run
from harness.errors import HarnessError
from harness.model.traffic import PodRef

_TAIL = 2000
"""Lines of each log."""


class Bundle:
    """A folder that is being filled."""

    def __init__(self, parent: Path, name: str) -> None:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        self.folder = parent / f"{name}-{stamp}.bundle"
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, file: str, read: Callable[[], str]) -> None:
        """One file; where it cannot be read, the reason stands in its place."""
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            text = read()
        except (HarnessError, *API_ERRORS) as error:
            text = f"could not be read: {error.message if isinstance(error, HarnessError) else said(error)}\n"
        path.write_text(text, encoding="utf-8")

    def note(self, text: str) -> None:
        """What happened, first of all."""
        (self.folder / "error.txt").write_text(text.rstrip() + "\n", encoding="utf-8")

    def add_cluster(self, api: Api, namespaces: tuple[str, ...]) -> None:
        """Everything that its API server tells: nodes, pods and events everywhere, logs of the pods of these namespaces."""
        self.add("nodes.yaml", lambda: _yaml(api, api.core.list_node(_request_timeout=20).items))
        self.add("pods.yaml", lambda: _yaml(api, api.core.list_pod_for_all_namespaces(_request_timeout=20).items))
        self.add("events.txt", lambda: _events(api))
        for namespace in namespaces:
            try:
                pods = api.core.list_namespaced_pod(namespace, _request_timeout=20).items
            except API_ERRORS as error:
                self.add(f"logs/{namespace}.txt", _raiser(error))
                continue
            for pod in pods:
                self._add_pod(api, pod)

    def _add_pod(self, api: Api, pod: Any) -> None:
        where = f"{pod.metadata.namespace}/{pod.metadata.name}"
        for each in [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]:
            for previous in (False, True) if each.restart_count else (False,):
                self.add(f"logs/{where}/{each.name}{'.previous' if previous else ''}.txt", _log(api, pod, each.name, previous=previous))
        if (pod.metadata.labels or {}).get("k8s-app") == "cilium" and pod.status.phase == "Running":
            self.add(f"agents/{pod.spec.node_name}.txt", lambda: _status(api, PodRef(pod.metadata.namespace, pod.metadata.name)))


def _raiser(error: BaseException) -> Callable[[], str]:
    def read() -> str:
        raise error

    return read


def _status(api: Api, pod: PodRef) -> str:
    got = run(api, pod, ["cilium-dbg", "status", "--verbose"], container="cilium-agent", within=20.0)
    return got.stdout + got.stderr + ("" if got.exit.code == 0 else f"\n{got.exit.why or f'exit code {got.exit.code}'}\n")


def _log(api: Api, pod: Any, container: str, *, previous: bool) -> Callable[[], str]:
    return lambda: str(
        api.core.read_namespaced_pod_log(
            pod.metadata.name, pod.metadata.namespace, container=container, previous=previous, tail_lines=_TAIL, _request_timeout=20
        )
    )


def _yaml(api: Api, items: list[Any]) -> str:
    plain = [api.client.sanitize_for_serialization(each) for each in items]
    for each in plain:
        each["metadata"].pop("managedFields", None)
    return str(yaml.safe_dump_all(plain, sort_keys=False))


def _events(api: Api) -> str:
    events = api.core.list_event_for_all_namespaces(_request_timeout=20).items
    return "".join(
        f"{_when(each)}  {each.type}  {each.metadata.namespace}  {each.involved_object.kind}/{each.involved_object.name}  "
        f"{each.reason}: {' '.join((each.message or '').split())}\n"
        for each in sorted(events, key=_when)
    )


def _when(event: Any) -> str:
    return str(event.last_timestamp or event.event_time or event.metadata.creation_timestamp)
