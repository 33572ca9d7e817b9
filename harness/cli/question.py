"""A question in the words of expectations (`cases.grammar`) becomes flows between what manifests hold. Asks nobody, prints nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

from msgspec import Struct, field
from msgspec.structs import replace

from harness.cases.grammar import ANY, GrammarError, Sentence, SourceTerm, TargetTerm, parse_sentence
from harness.cases.hosts import is_address, is_dns_name
from harness.cases.suggest import did_you_mean
from harness.errors import UsageError
from harness.model.cluster import ClusterState, ContainerPort, Pod, Service, ServicePort
from harness.model.traffic import Entity, EntityName, External, Peer, PodRef, Protocol, Request, RequestKind, Traffic
from harness.policy.prefix import Prefix, parse_address

_WORLD, _KUBE_DNS, _SERVICE = "world", "kube-dns", "service/"
_ENTITIES = {each.value: Entity(each) for each in EntityName}
_ICMP = {RequestKind.ICMP: (Protocol.ICMP, 8), RequestKind.ICMP6: (Protocol.ICMPV6, 128)}
"""Echo requests."""
_DNS_LABELS = {"k8s-app": "kube-dns"}
_DNS_POD = Pod(
    PodRef("kube-system", "kube-dns"),
    _DNS_LABELS,
    "",
    "coredns",
    (ContainerPort(53, Protocol.UDP, "dns"), ContainerPort(53, Protocol.TCP, "dns-tcp")),
)
_TARGETS = re.compile(r"->\s*[^\s,]+(?:\s*,\s*[^\s,]+)*")
_WORLD_ADDRESS = re.compile(r"(?<![^\s,>])world:(?=\[|[0-9a-fA-F:.]*[.:])")
_PROTOCOL = re.compile(r"/(tcp|udp|sctp)(?=[\s,]|\Z)")


class Asked(Struct, frozen=True):
    """One flow to answer, and how it is called in the answer."""

    text: str
    traffic: Traffic


class Questions(Struct):
    """What is asked of one state. `prefixes` are those that policies name: `world` is an address in none of them.

    What questions bring with them is here once they are read: `state` has the cluster's DNS server where one asks it and no manifest has it,
    `learned` the addresses that DNS names were given.
    """

    state: ClusterState
    prefixes: Sequence[Prefix] = ()
    learned: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def read(self, text: str) -> tuple[Asked, ...]:
        """The flows that a question means. UsageError if it is none, or names what is not there."""
        try:
            sentence = parse_sentence(_in_words_of_cases(text))
        except GrammarError as error:
            raise UsageError(f"not a question: {text.strip()!r}: {error.message}", hint=error.hint) from None
        flows = tuple(self._flows(sentence))
        if len(flows) == 1:
            return (Asked(text.strip(), flows[0].traffic),)
        if not flows:
            raise UsageError(f"{text.strip()!r} asks nothing: there is nobody to talk to but oneself")
        return flows

    def _flows(self, sentence: Sentence) -> Iterator[Asked]:
        request = sentence.request
        spoken = None if request is not None and request.kind in _ICMP else request
        ends = [end for term in sentence.targets for end in self._targets(term, request)]
        every = any(term.name == ANY for term in sentence.sources) or any(term.name == ANY for term in sentence.targets)
        for source in chain.from_iterable(map(self._sources, sentence.sources)):
            for called, destination, protocol, port in ends:
                if source != destination or not every:  # `any` is everybody else
                    text = f"{source} -> {called}" + (f" {request}" if request else "")
                    yield Asked(text, Traffic(source, destination, protocol, port, spoken))

    def _sources(self, term: SourceTerm) -> Iterator[Peer]:
        if term.name == ANY:
            yield from (pod.ref for pod in self.state.pods)
            return
        if self._service(term.name) is not None:
            raise UsageError(f"the service `{term.name}` sends nothing", hint="name the pod that sends")
        yield from self._peers(term.name)

    def _targets(self, term: TargetTerm, request: Request | None) -> Iterator[tuple[str, Peer, Protocol, int]]:
        icmp = _ICMP.get(request.kind) if request else None
        service = self._service(term.name)
        if service is not None:
            if icmp:
                raise UsageError(f"the address of service `{term.name}` answers no ping", hint="name the pod")
            yield from self._through(service, term)
            return
        peers = [pod.ref for pod in self.state.pods] if term.name == ANY else list(self._peers(term.name))
        found = False
        for peer in peers:
            if icmp:
                if term.port is not None:
                    raise UsageError("ICMP has no port", hint=f"write `{term.name}`")
                ports: Iterable[tuple[Protocol, int]] = (icmp,)
            else:
                ports = self._ports(peer, term, request)
            for protocol, port in ports:
                found = True
                yield (str(peer) if icmp else _with_port(str(peer), protocol, port)), peer, protocol, port
        if not found and term.port is not None:
            named = [each.name for pod in self.state.pods if pod.ref in peers for each in pod.ports if each.name]
            raise UsageError(
                f"`{term.name}` declares no port named `{term.port}`", hint=did_you_mean(term.port, named, noun="its named ports")
            )

    def _ports(self, peer: Peer, term: TargetTerm, request: Request | None) -> Iterator[tuple[Protocol, int]]:
        if term.port is None:
            if request is None or request.kind is not RequestKind.LOOKUP:
                raise UsageError(f"the target `{term}` needs a port", hint=f"write `{term}:PORT`")
            yield Protocol.UDP, 53
        elif term.port.isdigit():
            usual = Protocol.UDP if request is not None and request.kind is RequestKind.LOOKUP else Protocol.TCP
            yield term.protocol or usual, int(term.port)
        else:
            for each in next((pod.ports for pod in self.state.pods if pod.ref == peer), ()):
                if each.name == term.port and term.protocol in (None, each.protocol):
                    yield each.protocol, each.port

    def _through(self, service: Service, term: TargetTerm) -> Iterator[tuple[str, Peer, Protocol, int]]:
        """What a service's port leads to: policy is asked about the backend and its port."""
        name = f"{_SERVICE}{service.namespace}/{service.name}"
        port = _service_port(service, term, name)
        called = _with_port(name, port.protocol, port.port)
        wanted = (service.selector or {}).items()
        pods = [pod for pod in self.state.pods if wanted and pod.ref.namespace == service.namespace and wanted <= pod.labels.items()]
        if not pods:
            raise UsageError(
                f"the service {service.namespace}/{service.name} selects no workload", hint="give the workloads behind it with -f"
            )
        for pod in pods:
            if isinstance(port.target_port, int):
                number = port.target_port
            else:
                named = [each.port for each in pod.ports if each.name == port.target_port and each.protocol is port.protocol]
                if not named:
                    raise UsageError(f"{name}: {pod.ref} declares no port named `{port.target_port}`, the service's targetPort")
                number = named[0]
            yield f"{called} ({_with_port(str(pod.ref), port.protocol, number)})", pod.ref, port.protocol, number

    def _service(self, name: str) -> Service | None:
        """The service behind `service/NAME`, `service/NAMESPACE/NAME` or its DNS name; None for what is no service's name."""
        services = {f"{each.namespace}/{each.name}": each for each in self.state.services}
        if name.startswith(_SERVICE) and not self._has(_pod_ref(name)):
            key = name.removeprefix(_SERVICE)
            full = key if "/" in key else f"default/{key}"
            if full not in services:
                raise UsageError(f"there is no service {full}", hint=did_you_mean(name, map(_SERVICE.__add__, services), noun="services"))
            return services[full]
        parts = name.lower().removesuffix(".").removesuffix(".cluster.local").split(".")
        return services.get(f"{parts[1]}/{parts[0]}") if len(parts) == 3 and parts[2] == "svc" else None

    def _peers(self, name: str) -> Iterator[Peer]:
        if self._has(_pod_ref(name)):
            yield _pod_ref(name)
        elif name in _ENTITIES:
            yield _ENTITIES[name]
        elif name == _WORLD:
            yield self.world
        elif name == _KUBE_DNS:
            yield from self._dns_servers()
        elif is_address(name):
            yield External(name)
        elif is_dns_name(name) and "/" not in name:
            yield External(self._address_of(name.lower().removesuffix(".")))
        else:
            raise self._unknown(name)

    @property
    def world(self) -> External:
        """An address that stands for all that no policy names."""
        return External(self._free_address())

    def _has(self, ref: PodRef) -> bool:
        return any(pod.ref == ref for pod in self.state.pods)

    def _dns_servers(self) -> Iterator[PodRef]:
        found = [pod.ref for pod in self.state.pods if _DNS_LABELS.items() <= pod.labels.items()]
        if not found:
            namespaces: Mapping[str, Mapping[str, str]] = {_DNS_POD.ref.namespace: {}, **self.state.namespaces}
            node = self.state.pods[0].node if self.state.pods else ""
            self.state = replace(self.state, pods=(*self.state.pods, replace(_DNS_POD, node=node)), namespaces=namespaces)
            found = [_DNS_POD.ref]
        yield from found

    def _address_of(self, name: str) -> str:
        """An address that DNS has taught for a name, and for no other."""
        known = next((address for address, names in self.learned.items() if name in names), None)
        if known is None:
            known = self._free_address()
            self.learned[known] = (name,)
        return known

    def _free_address(self) -> str:
        """An IPv4 address that no policy names; where policies name all, the first there is."""
        named = [each for each in self.prefixes if each.version == 4 and each.length]
        candidates = [f"{first}.{second}.113.1" for first, second in ((203, 0), *((a, b) for b in range(256) for a in range(1, 224)))]
        free = (each for each in candidates if each not in self.learned)
        first = next(free)
        return next((each for each in chain((first,), free) if not any(item.contains(parse_address(each)) for item in named)), first)

    def _unknown(self, name: str) -> UsageError:
        ref = _pod_ref(name)
        known = [*(str(pod.ref) for pod in self.state.pods), *_ENTITIES, _WORLD, _KUBE_DNS]
        elsewhere = [str(pod.ref) for pod in self.state.pods if pod.ref.name == ref.name]
        hint = f"did you mean `{elsewhere[0]}`?" if elsewhere else did_you_mean(str(ref), known, noun="there are")
        return UsageError(f"there is no pod {ref}", hint=hint)


def _in_words_of_cases(text: str) -> str:
    """`world:ADDRESS` is the address, and protocols of targets may be written small."""
    text = _WORLD_ADDRESS.sub("", text)
    return _TARGETS.sub(lambda found: _PROTOCOL.sub(lambda each: each[0].upper(), found[0]), text, count=1)


def _pod_ref(name: str) -> PodRef:
    namespace, slash, rest = name.partition("/")
    return PodRef(namespace, rest) if slash else PodRef("default", name)


def _with_port(name: str, protocol: Protocol, port: int) -> str:
    return f"{name}:{port}" + ("" if protocol is Protocol.TCP else f"/{protocol}")


def _service_port(service: Service, term: TargetTerm, name: str) -> ServicePort:
    wanted = term.port
    for each in service.ports:
        if wanted is not None and wanted in (str(each.port), each.name) and term.protocol in (None, each.protocol):
            return each
    ports = ", ".join(f"{each.port}/{each.protocol}" for each in service.ports) or "none"
    raise UsageError(f"{name} has no port {wanted}" if wanted else f"the target `{term}` needs a port", hint=f"its ports: {ports}")
