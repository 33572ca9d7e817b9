"""The objects of a case as plain Kubernetes data: namespaces, service accounts, pods, services. Pure; nothing is created here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from harness.cases.case import Case, EndpointSpec, ServiceSpec
from harness.clusters.kubernetes.externals import WITNESS
from harness.clusters.kubernetes.nodes import needed as nodes_needed
from harness.clusters.kubernetes.nodes import served, server, site
from harness.clusters.kubernetes.rename import METADATA_NAME, Renaming, unique
from harness.clusters.kubernetes.run import CASE_ANNOTATION, RunId
from harness.clusters.kubernetes.wishes import PodOptions
from harness.errors import ClusterError
from harness.model.traffic import PodRef

AGENT = "harness-agent"
"""The ConfigMap with the agent's text, one in each namespace."""
CONTAINER = "agent"
_MOUNT = "/harness"
_PYTHON = ("python3", "-I", "-S", "-u")
SERVER = (*_PYTHON, f"{_MOUNT}/agent_server.py")
CLIENT = (*_PYTHON, f"{_MOUNT}/agent_client.py")
PROGRAMS = ("agent_server.py", "agent_client.py", "agent_dns.py")
"""Those files. The last is read by the others when they need it."""
SERVED = ("auto", "http", "echo", "sink", "dns")
"""What the agent's ports can speak."""
_NOBODY = 65534
_LONGEST = 63
"""Characters of a pod's name: it is its hostname too."""


class CaseObjects(Struct, frozen=True):
    """Everything of a case, in the cluster's names. `pods` maps the case's pods to where they are."""

    namespaces: tuple[Mapping[str, Any], ...]
    service_accounts: tuple[Mapping[str, Any], ...]
    config_maps: tuple[Mapping[str, Any], ...]
    secrets: tuple[Mapping[str, Any], ...]
    services: tuple[Mapping[str, Any], ...]
    pod_objects: tuple[Mapping[str, Any], ...]
    pods: Mapping[PodRef, PodRef]


def server_text() -> str:
    """The program that serves in the pods. Alone it speaks everything but DNS."""
    return _text("agent_server.py")


def _text(name: str) -> str:
    return files(__package__).joinpath(name).read_text()


def case_objects(
    case: Case,
    renaming: Renaming,
    run: RunId,
    placed: Mapping[PodRef, str],
    options: PodOptions,
    *,
    allow_host: bool,
    nodes: Iterable[str] = (),
    witness: str = "",
    secrets: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> CaseObjects:
    """`placed` are the nodes of the pods, by the cluster's names; `secrets` are copied to every namespace, by name; each of `nodes` gets a
    pod in its network where the case speaks of nodes; `witness` is the node of a pod that no policy of the case selects, '' for none. ClusterError for what cannot be had here."""
    host = unique("host", renaming.suffix)
    for_nodes = sorted(set(nodes)) if allow_host and nodes_needed(case) else []
    uses_host = bool(for_nodes) or any(spec.host_network for spec in case.endpoints.values())
    if uses_host and not allow_host:
        raise ClusterError(f"case `{case.name}` has host-network endpoints", hint="pass --allow-host to run privileged-namespace pods")
    aside = unique("witness", renaming.suffix)
    names = [*renaming.namespaces.values(), *([host] if uses_host else []), *([aside] if witness else [])]
    namespaces = [_namespace(name, renaming, case, run, privileged=name == host) for name in names]
    accounts = {
        (renaming.namespace(spec.namespace), spec.service_account)
        for spec in case.endpoints.values()
        if spec.service_account not in (None, "default") and not spec.host_network
    }
    pods: dict[PodRef, PodRef] = {}
    objects: list[Mapping[str, Any]] = []
    for spec in case.endpoints.values():
        for ref in spec.pods():
            there = (
                PodRef(host, _short(f"{ref.namespace}-{ref.name}"))
                if spec.host_network
                else PodRef(renaming.namespace(ref.namespace), ref.name)
            )
            pods[ref] = there
            objects.append(_pod(spec, str(ref), there, placed[ref], options, case))
    for node in for_nodes:
        spec = EndpointSpec("node", "", {}, case.location, ports=served(case, placed, node), host_network=True)
        there = pods[site(node)] = PodRef(host, _short(f"node-{node}"))
        objects.append(_pod(spec, server(node), there, node, options, case))
    if witness:
        pods[WITNESS] = PodRef(aside, WITNESS.name)
        objects.append(_pod(EndpointSpec(WITNESS.name, "", {}, case.location), WITNESS.name, pods[WITNESS], witness, options, case))
    programs = {name: _text(name) for name in PROGRAMS}
    return CaseObjects(
        tuple(namespaces),
        tuple(
            {"metadata": {"name": name, "namespace": namespace}, "automountServiceAccountToken": False}
            for namespace, name in sorted(accounts)
        ),
        tuple({"metadata": {"name": AGENT, "namespace": name}, "data": programs} for name in names),
        tuple({"metadata": {"name": key, "namespace": name}, **secret} for name in names for key, secret in secrets.items()),
        tuple(_service(spec, renaming) for spec in case.services.values()),
        tuple(objects),
        pods,
    )


def _namespace(name: str, renaming: Renaming, case: Case, run: RunId, *, privileged: bool) -> Mapping[str, Any]:
    level = "privileged" if privileged else "restricted"
    own = {key: value for key, value in case.namespaces.get(renaming.original(name), {}).items() if key != METADATA_NAME}
    security = {f"pod-security.kubernetes.io/{mode}": level for mode in ("enforce", "audit", "warn")}
    return {"metadata": {"name": name, "labels": {**own, **security, **run.labels}, "annotations": dict(run.annotations(case.name))}}


def _ports(spec: EndpointSpec) -> Iterator[Mapping[str, Any]]:
    """What the agent serves. The other ports stay shut: phases that need them are skipped for the feature that is lacking."""
    for port in spec.ports:
        if port.serve.value in SERVED:
            yield {"port": port.port, "protocol": port.protocol.value, "serve": port.serve.value}


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _pod(spec: EndpointSpec, name: str, there: PodRef, node: str, options: PodOptions, case: Case) -> Mapping[str, Any]:
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": options.image,
        "imagePullPolicy": options.pull_policy,
        "command": [*SERVER],
        "env": [
            {"name": "HARNESS_NAME", "value": name},
            {"name": "HARNESS_POD", "value": str(there)},
            {"name": "HARNESS_PORTS", "value": json.dumps(list(_ports(spec)))},
        ],
        "ports": [
            {"containerPort": port.port, "protocol": port.protocol.value, **({"name": port.name} if port.name else {})}
            for port in spec.ports
        ],
        "resources": {"requests": {"cpu": "10m", "memory": "24Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": AGENT, "mountPath": _MOUNT, "readOnly": True}],
    }
    security: dict[str, Any] = {
        "runAsNonRoot": True,
        "runAsUser": _NOBODY,
        "runAsGroup": _NOBODY,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if not spec.host_network:
        # Both are on Kubernetes' list of safe sysctls: pings without privileges, and ports below 1024.
        security["sysctls"] = [
            {"name": "net.ipv4.ping_group_range", "value": "0 2147483647"},
            {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"},
        ]
    return {
        # No label of ours: labels are the pod's identity.
        "metadata": {
            "name": there.name,
            "namespace": there.namespace,
            "labels": dict(spec.labels),
            "annotations": {CASE_ANNOTATION: case.name},
        },
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "restartPolicy": "Never",
            "nodeSelector": {**dict(options.node_selector), "kubernetes.io/hostname": node},
            "tolerations": [each.manifest() for each in options.tolerations],
            "imagePullSecrets": [{"name": each.name} for each in options.pull_secrets],
            "securityContext": security,
            "containers": [container],
            "volumes": [{"name": AGENT, "configMap": {"name": AGENT}}],
            **({"serviceAccountName": spec.service_account} if spec.service_account and not spec.host_network else {}),
            **({"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"} if spec.host_network else {}),
        },
    }


def _service(spec: ServiceSpec, renaming: Renaming) -> Mapping[str, Any]:
    ports = [
        {
            "name": port.name or f"{port.protocol.value.lower()}-{port.port}",
            "port": port.port,
            "targetPort": port.target_port,
            "protocol": port.protocol.value,
        }
        for port in spec.ports
    ]
    return {
        "metadata": {"name": spec.name, "namespace": renaming.namespace(spec.namespace)},
        "spec": {
            "type": spec.type,
            "selector": dict(spec.selector),
            "ports": ports,
            "ipFamilyPolicy": "PreferDualStack",
            **({"clusterIP": "None"} if spec.headless else {}),
        },
    }
