"""The raw document becomes a Case: endpoints, services, externals, namespaces; then its phases. Everything said is checked here."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec.structs import replace

from harness.cases.case import Case, EndpointSpec, ExternalSpec, PortSpec, Serve, ServicePortSpec, ServiceSpec
from harness.cases.document import Text
from harness.cases.expectations import names_of
from harness.cases.grammar import ANY
from harness.cases.manifests import Manifests
from harness.cases.model import CaseModel, ExternalModel, PortModel, ServiceModel
from harness.cases.names import Names
from harness.cases.otherwise import target_port
from harness.cases.phases import resolve_phases
from harness.cases.requirements import case_requirements
from harness.cases.suggest import closest, did_you_mean
from harness.model.traffic import Family, PodRef, Protocol

DEFAULT_NAMESPACE = "default"
METADATA_NAME = "kubernetes.io/metadata.name"
_SERVICE_TYPES = ("ClusterIP", "NodePort", "LoadBalancer")
_SERVED_OVER = {
    Serve.HTTP: {Protocol.TCP},
    Serve.GRPC: {Protocol.TCP},
    Serve.TLS: {Protocol.TCP},
    Serve.SINK: {Protocol.UDP},
    Serve.DNS: {Protocol.TCP, Protocol.UDP},
}


def resolve_case(model: CaseModel, folder: Path, manifests: Manifests) -> Case:
    """The case that a raw document means. Raises CaseError or PolicyFileError at the first mistake."""
    namespace = str(model.namespace or DEFAULT_NAMESPACE)
    endpoints = _endpoints(model, namespace)
    externals = _externals(model, endpoints)
    services = _services(model, namespace, endpoints)
    case = Case(
        name=str(model.case),
        location=model.case.location,
        namespace=namespace,
        namespaces={},
        endpoints=endpoints,
        services=services,
        externals=externals,
        phases=(),
        description=str(model.description or ""),
        tags=tuple(dict.fromkeys(str(tag) for tag in model.tags)),
        nodes={str(name): labels for name, labels in model.nodes.items()},
    )
    resolved = resolve_phases(model, names_of(case), folder, manifests)
    used = (ref.namespace for phase in resolved.phases for ref in (policy.ref for policy in phase.policies) if ref.namespace)
    case = replace(case, phases=resolved.phases, cidr_groups=resolved.cidr_groups, namespaces=_namespaces(model, case, used))
    return replace(case, requires=case_requirements(model.requires, case))


def _namespaces(model: CaseModel, case: Case, of_policies: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
    names = [case.namespace, *map(str, model.namespaces)]
    names += [each.namespace for each in case.endpoints.values()]
    names += [each.namespace for each in case.services.values()]
    names += of_policies
    labels = {str(name): each for name, each in model.namespaces.items()}
    return {name: {METADATA_NAME: name, **labels.get(name, {})} for name in dict.fromkeys(names)}


def _endpoints(model: CaseModel, namespace: str) -> dict[str, EndpointSpec]:
    endpoints: dict[str, EndpointSpec] = {}
    pods: dict[PodRef, str] = {}
    hosts: dict[tuple[str, int, Protocol], str] = {}
    for name, raw in model.endpoints.items():
        if name == ANY:
            raise name.error(f"an endpoint may not be called `{ANY}`: in expectations it means every endpoint")
        spec = EndpointSpec(
            name=str(name),
            namespace=str(raw.namespace or namespace),
            labels=raw.labels,
            location=name.location,
            service_account=str(raw.service_account) if raw.service_account is not None else None,
            replicas=raw.replicas,
            node=str(raw.node) if raw.node is not None else None,
            ports=_ports(raw.ports),
            host_network=raw.host_network,
        )
        for pod in spec.pods():
            if pod in pods:
                raise name.error(f"the pods of `{name}` and `{pods[pod]}` are both called {pod}", hint="rename one of them")
            pods[pod] = str(name)
        _check_host_ports(name, spec, hosts)
        endpoints[spec.name] = spec
    return endpoints


def _check_host_ports(name: Text, spec: EndpointSpec, hosts: dict[tuple[str, int, Protocol], str]) -> None:
    """Two host-network pods cannot serve one port of one node."""
    if not spec.host_network or spec.node is None:
        return
    for port in spec.ports:
        key = (spec.node, port.port, port.protocol)
        if key in hosts or spec.replicas > 1:
            other = f"`{hosts[key]}`" if key in hosts else "another replica"
            raise name.error(
                f"port {port.port}/{port.protocol} of node {spec.node} is taken by {other}", hint="put them on different nodes"
            )
        hosts[key] = spec.name


def _ports(raw: Iterable[PortModel]) -> tuple[PortSpec, ...]:
    specs: dict[tuple[int, Protocol], PortSpec] = {}
    names: set[str] = set()
    for each in raw:
        spec = PortSpec(each.port, each.protocol, str(each.name) if each.name is not None else None, each.serve)
        if (spec.port, spec.protocol) in specs:
            raise each.place.error(f"port {spec.port}/{spec.protocol} stands here twice", hint="remove one")
        if spec.name is not None and spec.name in names:
            raise each.table.place_of("name").error(f"two ports are called `{spec.name}`", hint="rename one")
        over = _SERVED_OVER.get(spec.serve)
        if over is not None and spec.protocol not in over:
            wanted = " or ".join(sorted(over))
            raise each.table.place_of("serve").error(
                f"`{spec.serve}` is served over {wanted}, not {spec.protocol}", hint=f"add `protocol: {wanted}`"
            )
        specs[spec.port, spec.protocol] = spec
        if spec.name is not None:
            names.add(spec.name)
    return tuple(specs.values())


def _externals(model: CaseModel, endpoints: Mapping[str, EndpointSpec]) -> dict[str, ExternalSpec]:
    externals: dict[str, ExternalSpec] = {}
    owners: dict[str, str] = {}
    for name, raw in model.externals.items():
        if name in endpoints or name == ANY:
            raise name.error(
                f"`{name}` is an endpoint already" if name in endpoints else f"an external may not be called `{ANY}`", hint="rename one"
            )
        addresses = _addresses(raw)
        for text in (*raw.names, *addresses):
            word = str(text).lower().removesuffix(".")
            if word in owners:
                raise text.error(f"`{text}` belongs to `{owners[word]}` already")
            owners[word] = str(name)
        externals[str(name)] = ExternalSpec(
            name=str(name),
            location=name.location,
            names=tuple(str(each).lower().removesuffix(".") for each in raw.names),
            addresses=tuple(sorted((_normal(each) for each in addresses), key=lambda each: ":" in each)),
            ports=_ports(raw.ports),
            ttl=raw.ttl,
        )
    return externals


def _addresses(raw: ExternalModel) -> list[Text]:
    if raw.address is not None and raw.addresses:
        raise raw.table.key("addresses").error("both `address` and `addresses`", hint="write one list: `addresses`")
    addresses = [raw.address] if raw.address is not None else raw.addresses
    families: dict[Family, Text] = {}
    for each in addresses:
        family = Family.of(each)
        if family in families:
            raise each.error(f"a second {family.value} address", hint="one address per family; declare another external")
        families[family] = each
    return addresses


def _normal(address: str) -> str:
    return str(ipaddress.ip_address(address))


def _services(model: CaseModel, namespace: str, endpoints: Mapping[str, EndpointSpec]) -> dict[str, ServiceSpec]:
    services: dict[str, ServiceSpec] = {}
    for name, raw in model.services.items():
        spec = ServiceSpec(
            name=str(name),
            namespace=str(raw.namespace or namespace),
            selector=raw.selector,
            ports=_service_ports(raw),
            location=name.location,
            type=_service_type(raw),
            headless=raw.headless,
        )
        _check_backends(name, raw, spec, Names(namespace, endpoints, {}, {}))
        services[f"{spec.namespace}/{spec.name}"] = spec
    return services


def _service_type(raw: ServiceModel) -> str:
    if raw.type is None:
        return _SERVICE_TYPES[0]
    if raw.type not in _SERVICE_TYPES:
        raise raw.type.error(f"`{raw.type}` is no type of service", hint=did_you_mean(raw.type, _SERVICE_TYPES, noun="choose from"))
    if raw.headless and raw.type != _SERVICE_TYPES[0]:
        raise raw.type.error("a headless service is a ClusterIP service without the IP", hint="remove `type`")
    return str(raw.type)


def _service_ports(raw: ServiceModel) -> tuple[ServicePortSpec, ...]:
    specs: dict[tuple[int, Protocol], ServicePortSpec] = {}
    for each in raw.ports:
        target = each.target_port if each.target_port is not None else each.port
        spec = ServicePortSpec(each.port, target, each.protocol, str(each.name) if each.name is not None else None)
        if (spec.port, spec.protocol) in specs:
            raise each.place.error(f"port {spec.port}/{spec.protocol} stands here twice", hint="remove one")
        specs[spec.port, spec.protocol] = spec
    if not specs:
        raise raw.table.key("ports").error("a service needs a port")
    return tuple(specs.values())


def _check_backends(name: Text, raw: ServiceModel, spec: ServiceSpec, names: Names) -> None:
    """A service must select somebody, and its ports must lead to ports somebody declares."""
    backends = names.backends(spec)
    if not spec.selector:
        raise raw.table.key("selector").error(f"service `{name}` has an empty selector", hint="give it labels of its backends")
    if not backends:
        place = raw.table.key("selector").place
        raise place.error(f"service `{name}` selects nothing in namespace {spec.namespace}", hint=_selector_hint(spec, names))
    for port, model in zip(spec.ports, raw.ports, strict=True):
        if not any(target_port(port, each) for each in backends):
            place = model.table.place_of("targetPort") if "targetPort" in model.table else model.place
            declared = sorted({f"{each.port}/{each.protocol}" for backend in backends for each in backend.ports})
            hint = f"their ports: {', '.join(declared)}" if declared else "they declare no ports"
            raise place.error(f"no backend of `{name}` declares port {port.target_port}/{port.protocol}", hint=hint)


def _selector_hint(spec: ServiceSpec, names: Names) -> str:
    for each in names.endpoints.values():
        if each.namespace != spec.namespace and spec.selector.items() <= each.labels.items():
            return f"`{each.name}` has these labels, in namespace {each.namespace}: add `namespace: {each.namespace}`"
    known = [
        f"{key}={value}" for each in names.endpoints.values() if each.namespace == spec.namespace for key, value in each.labels.items()
    ]
    for key, value in spec.selector.items():
        match = closest(f"{key}={value}", known)
        if f"{key}={value}" not in known and match:
            return f"did you mean `{match.replace('=', ': ')}`?"
    return "no endpoint of that namespace has all of these labels"
