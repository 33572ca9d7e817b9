"""A cluster's state from ordinary Kubernetes manifests: what would run if they were applied. Reads no files, knows no policies.

Replicas share their labels, and so their identity: a workload is one pod here, named as the workload is.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from harness.errors import Location, PolicyFileError
from harness.model.cluster import CIDRGroup, ClusterState, ContainerPort, Pod, Service, ServicePort
from harness.model.traffic import PodRef, Protocol

UNPLACED = "a"
"""Where pods are that name no node."""
_TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Where each kind keeps its pod's metadata and spec."""
_SELECTING = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"})
"""Kinds that find their pods by labels: the API server refuses them without. A pod of its own or of a job may have none."""
WORKLOAD_KINDS = (*_TEMPLATES, "Namespace", "Node", "Service", "CiliumCIDRGroup")
_PORTED = {each.value: each for each in Protocol if each.has_ports}


class Manifest(Struct, frozen=True):
    """One object, as JSON values, and where it is written."""

    document: Mapping[str, Any]
    location: Location

    def error(self, message: str, hint: str | None = None) -> PolicyFileError:
        return PolicyFileError(message, location=self.location, hint=hint)

    def mapping(self, owner: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        """The mapping below a key; empty where there is none."""
        value = owner.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self.error(f"`{key}` must be a mapping, not {value!r}")
        return value or {}

    def items(self, owner: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
        """The mappings in the list below a key; none where there is no list."""
        value = owner.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(each, Mapping) for each in value)):
            raise self.error(f"`{key}` must be a list of mappings")
        yield from value or ()

    def labels(self, metadata: Mapping[str, Any]) -> dict[str, str]:
        labels = dict(self.mapping(metadata, "labels"))
        for key, value in labels.items():
            if not isinstance(value, str):
                raise self.error(f"label `{key}` must be a text, not {value!r}", f'quote it: {key}: "{value}"')
        return labels

    def name(self, owner: Mapping[str, Any], key: str = "name") -> str | None:
        value = owner.get(key)
        if value is not None and not (isinstance(value, str) and value):
            # Without quotes y, no, on and their like are booleans to YAML, and 1 a number: the word that was written is not known here.
            hint = f'quote what is written: {key}: "..."' if isinstance(value, bool | int | float) else None
            raise self.error(f"`{key}` must be a text, not {value!r}", hint)
        return value

    def port(self, value: object, key: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 65536:
            raise self.error(f"`{key}` must be a port number from 1 to 65535, not {value!r}")
        return value

    def protocol(self, owner: Mapping[str, Any]) -> Protocol:
        written = owner.get("protocol") or "TCP"
        if not isinstance(written, str) or written not in _PORTED:
            raise self.error(f"`protocol` must be one of {', '.join(_PORTED)}, not {written!r}")
        return _PORTED[written]


class Workloads(Struct, frozen=True):
    """The state, and where each pod of it is written."""

    state: ClusterState
    locations: Mapping[PodRef, Location]


def read_workloads(manifests: Iterable[Manifest], default_namespace: str = "default") -> Workloads:
    """What the manifests make run. PolicyFileError, with its place, for an object that is none of WORKLOAD_KINDS or is not usable."""
    namespaces: dict[str, Mapping[str, str]] = {}
    pods: dict[PodRef, Pod] = {}
    services: list[Service] = []
    groups: list[CIDRGroup] = []
    nodes: dict[str, Mapping[str, str]] = {}
    locations: dict[PodRef, Location] = {}
    for manifest in manifests:
        kind = manifest.document.get("kind")
        if not isinstance(kind, str) or kind not in WORKLOAD_KINDS:
            raise manifest.error(f"unknown kind {kind!r}: no workload", f"supported: {', '.join(WORKLOAD_KINDS)}")
        metadata = manifest.mapping(manifest.document, "metadata")
        name = manifest.name(metadata)
        if name is None:
            raise manifest.error(f"a {kind} needs `metadata.name`")
        namespace = manifest.name(metadata, "namespace") or default_namespace
        if kind == "Namespace":
            namespaces[name] = manifest.labels(metadata)
        elif kind == "Node":
            nodes[name] = manifest.labels(metadata)
        elif kind == "CiliumCIDRGroup":
            groups.append(_cidr_group(manifest, name, metadata))
        elif kind == "Service":
            services.append(_service(manifest, namespace, name, metadata))
        else:
            pod = _pod(manifest, kind, PodRef(namespace, name))
            if pod.ref in pods:
                raise manifest.error(
                    f"there are two workloads {pod.ref}: the other is at {locations[pod.ref]}", "give each a name of its own"
                )
            pods[pod.ref] = pod
            locations[pod.ref] = manifest.location
    for ref in pods:
        namespaces.setdefault(ref.namespace, {})
    state = ClusterState(namespaces, tuple(pods.values()), services=tuple(services), cidr_groups=tuple(groups), nodes=nodes)
    return Workloads(state, locations)


def _pod(manifest: Manifest, kind: str, ref: PodRef) -> Pod:
    template = manifest.document
    for key in _TEMPLATES[kind]:
        template = manifest.mapping(template, key)
    labels = manifest.labels(manifest.mapping(template, "metadata"))
    if not labels and kind in _SELECTING:
        path = ".".join((*_TEMPLATES[kind], "metadata.labels"))
        raise manifest.error(f"the pods of {kind} {ref} have no labels, and it must select them by some", f"give it `{path}`")
    if kind == "Job":
        # The job controller adds these to every pod; both are part of the identity.
        labels |= {"job-name": ref.name, "batch.kubernetes.io/job-name": ref.name}
    spec = manifest.mapping(template, "spec")
    sidecars = [each for each in manifest.items(spec, "initContainers") if each.get("restartPolicy") == "Always"]
    ports = tuple(
        ContainerPort(manifest.port(port.get("containerPort"), "containerPort"), manifest.protocol(port), manifest.name(port))
        for container in (*manifest.items(spec, "containers"), *sidecars)
        for port in manifest.items(container, "ports")
    )
    return Pod(
        ref=ref,
        labels=labels,
        node=manifest.name(spec, "nodeName") or UNPLACED,
        service_account=manifest.name(spec, "serviceAccountName") or manifest.name(spec, "serviceAccount") or "default",
        ports=ports,
        host_network=spec.get("hostNetwork") is True,
    )


def _service(manifest: Manifest, namespace: str, name: str, metadata: Mapping[str, Any]) -> Service:
    spec = manifest.mapping(manifest.document, "spec")
    ports = []
    for each in manifest.items(spec, "ports"):
        port = manifest.port(each.get("port"), "port")
        target = each.get("targetPort", port)
        ports.append(
            ServicePort(
                port,
                target if isinstance(target, str) else manifest.port(target, "targetPort"),
                manifest.protocol(each),
                manifest.name(each),
            )
        )
    return Service(
        namespace=namespace,
        name=name,
        selector=manifest.labels({"labels": spec["selector"]}) if spec.get("selector") else None,
        ports=tuple(ports),
        labels=manifest.labels(metadata),
        headless=spec.get("clusterIP") == "None",
        type=manifest.name(spec, "type") or "ClusterIP",
    )


def _cidr_group(manifest: Manifest, name: str, metadata: Mapping[str, Any]) -> CIDRGroup:
    cidrs = manifest.mapping(manifest.document, "spec").get("externalCIDRs")
    if not isinstance(cidrs, list):
        raise manifest.error(f"CiliumCIDRGroup {name} needs `spec.externalCIDRs`, a list of CIDRs")
    for cidr in cidrs:
        try:
            ipaddress.ip_network(str(cidr), strict=False)
        except ValueError:
            raise manifest.error(f"CiliumCIDRGroup {name}: `{cidr}` is no CIDR") from None
    return CIDRGroup(name, tuple(map(str, cidrs)), manifest.labels(metadata))
