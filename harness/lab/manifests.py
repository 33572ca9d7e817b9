"""A case of ordinary Kubernetes manifests: workloads become endpoints, policies the one phase. Reads no files.

What a lab cannot run (volumes, ingresses, whatever has no part in policy) is left out, and told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from msgspec.structs import replace

from harness.cases.case import Case, EndpointSpec, Phase, PortSpec, ServicePortSpec, ServiceSpec
from harness.cases.document import Items, Node, Table
from harness.cases.expectations import names_of
from harness.cases.manifests import POLICY_KINDS, objects_of, plain, policy_error
from harness.cases.requirements import case_requirements, phase_requirements
from harness.cases.resolve import METADATA_NAME
from harness.clusters.netns.addresses import MAX_NODES
from harness.errors import Location, UsageError
from harness.model.cluster import ClusterState, Pod, Service
from harness.model.traffic import PodRef
from harness.policy.workloads import WORKLOAD_KINDS, Manifest, read_workloads

PHASE = "manifests"
_FIRST_NODE = "a"
"""Where `read_workloads` puts a pod that names no node."""


def read_manifests(documents: Iterable[Node], namespace: str) -> tuple[Case, tuple[str, ...]]:
    """The case that manifests describe, and a line on each thing of them that is not in it. `namespace` is for objects that name none.

    Raises PolicyFileError, with its place, for what is no usable object, and UsageError where there is no workload.
    """
    objects = [each for node in documents for each in _objects(node)]
    workloads = [node for node in objects if _kind(node) in WORKLOAD_KINDS]
    policies = [each for node in objects if _kind(node) in POLICY_KINDS for each in objects_of(node)]
    found = read_workloads([Manifest(plain(node), node.place.location) for node in workloads], namespace)
    if not found.state.pods:
        raise UsageError("no workload to bring up in these manifests", hint="name those of Pods, Deployments and the like, too")
    endpoints = _endpoints(found.state, found.locations)
    services, notes = _services(found.state)
    applied = tuple(each.policy(namespace) for each in policies)
    first = objects[0].place.location
    used = {each.namespace for each in endpoints.values()} | {each.ref.namespace for each in applied} | {namespace, *found.state.namespaces}
    case = Case(
        name="manifests",
        location=Location(first.file, first.line),
        namespace=namespace,
        namespaces={each: {METADATA_NAME: each, **found.state.namespaces.get(each, {})} for each in sorted(used - {""})},
        endpoints=endpoints,
        services={f"{each.namespace}/{each.name}": each for each in services},
        externals={},
        phases=(),
        cidr_groups=found.state.cidr_groups,
    )
    phase = Phase(PHASE, case.location, apply=applied, policies=applied)
    phase = replace(phase, requires=phase_requirements(None, phase, names_of(case), applied))
    case = replace(case, requires=case_requirements(None, case), phases=(phase,))
    others = Counter(_kind(node) for node in objects if _kind(node) not in {*WORKLOAD_KINDS, *POLICY_KINDS})
    left = [f"left out, for it has no part in policy: {kind}" + (f" ({number})" if number > 1 else "") for kind, number in others.items()]
    return case, (*notes, *left)


def _objects(node: Node) -> Iterator[Table]:
    """The objects of a document: one, or the items of a List."""
    if not isinstance(node, Table):
        raise policy_error(node.place, "expected a Kubernetes object (a mapping)")
    items = node.get("items")
    if _kind(node).endswith("List") and isinstance(items, Items):
        for item in items:
            yield from _objects(item)
        return
    if not _kind(node):
        raise policy_error(node.place, "a Kubernetes object needs `kind`", f"as in {', '.join((*WORKLOAD_KINDS, *POLICY_KINDS))}")
    yield node


def _kind(node: Table) -> str:
    kind = node.get("kind")
    return "" if kind is None else str(kind)


def _endpoints(state: ClusterState, locations: Mapping[PodRef, Location]) -> dict[str, EndpointSpec]:
    """Endpoints by the name of their workload, with its namespace in front where two are called so."""
    same = Counter(pod.ref.name for pod in state.pods)
    nodes = _nodes(state)
    return {
        (pod.ref.name if same[pod.ref.name] == 1 else str(pod.ref)): EndpointSpec(
            name=pod.ref.name,
            namespace=pod.ref.namespace,
            labels=pod.labels,
            location=locations[pod.ref],
            service_account=pod.service_account,
            node=nodes[pod.node],
            ports=_ports(pod),
            host_network=pod.host_network,
        )
        for pod in state.pods
    }


def _nodes(state: ClusterState) -> dict[str, str | None]:
    """The lab's node for each node that manifests name; pods that name none are spread."""
    named = sorted({pod.node for pod in state.pods} - {_FIRST_NODE})
    if len(named) > MAX_NODES:
        raise UsageError(f"the pods name {len(named)} nodes, and a lab has at most {MAX_NODES}", hint="leave out some `nodeName`s")
    return {_FIRST_NODE: None, **{name: chr(ord(_FIRST_NODE) + index) for index, name in enumerate(named)}}


def _ports(pod: Pod) -> tuple[PortSpec, ...]:
    """Each port once: containers of a pod share its network, and manifests repeat themselves."""
    ports = {(port.port, port.protocol): PortSpec(port.port, port.protocol, port.name) for port in reversed(pod.ports)}
    return tuple(reversed(ports.values()))


def _services(state: ClusterState) -> tuple[list[ServiceSpec], list[str]]:
    services, notes = [], []
    for service in state.services:
        if not service.selector:
            notes.append(f"left out, for it selects no pods: Service {service.namespace}/{service.name}")
        else:
            services.append(_service(service, service.selector))
    return services, notes


def _service(service: Service, selector: Mapping[str, str]) -> ServiceSpec:
    return ServiceSpec(
        name=service.name,
        namespace=service.namespace,
        selector=selector,
        ports=tuple(ServicePortSpec(port.port, port.target_port, port.protocol, port.name) for port in service.ports),
        location=Location(f"Service {service.namespace}/{service.name}", 1),
        type=service.type,
        headless=service.headless,
    )
