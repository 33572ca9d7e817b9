"""Where programs can run in a lab, by the names that people use, and what those names resolve to from there. Pure; enters nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct

from harness.cases.case import Case, Placement
from harness.cases.suggest import did_you_mean
from harness.errors import UsageError
from harness.model.cluster import Pod, Service
from harness.model.traffic import PodRef

OUTSIDE = ("world", "kube-apiserver")
CLUSTER_DOMAIN = "cluster.local"
DNS_SERVICE = "service:kube-system/kube-dns"
_NODE = "node"


class Site(Struct, frozen=True):
    """A place to run a program: a pod (`shop/web`), a node (`node/a`), `world` or `kube-apiserver`."""

    name: str
    namespace: str
    """The namespace whose names it may use in short; that of the case where it is no pod."""
    lab_name: str
    """What the lab calls its network namespace."""

    @property
    def hostname(self) -> str:
        return self.name.removeprefix(f"{self.namespace}/").replace("/", "-")


class Places(Struct, frozen=True):
    """The places of a deployed case."""

    case: Case
    placement: Placement

    def find(self, name: str) -> Site:
        """The place that is called so: a pod by its name, with or without its namespace, an endpoint (its first replica, or
        `backend[1]`), `node/a`, `world` or `kube-apiserver`. Raises UsageError, with what was probably meant."""
        sites = dict(self._names())
        found = sites.get(name)
        if found is None:
            raise UsageError(f"there is no `{name}` in this lab", hint=did_you_mean(name, sites, noun="there are"))
        return found

    def _names(self) -> Iterator[tuple[str, Site]]:
        pods = {pod.ref: pod for pod in self.placement.state.pods}
        for key, spec in self.case.endpoints.items():
            for index, ref in enumerate(spec.pods()):
                site = self._pod(pods[ref])
                if index == 0:
                    yield key, site
                    yield f"{spec.namespace}/{spec.name}", site
                if spec.replicas > 1:
                    yield f"{key}[{index}]", site
                    yield key.removesuffix(spec.name) + ref.name, site
                yield str(ref), site
        for name in sorted({"a", "b", *self.placement.state.nodes, *(pod.node for pod in pods.values())}):
            yield f"{_NODE}/{name}", self._node(name)
        for name in OUTSIDE:
            yield name, Site(name, self.case.namespace, name)

    def _pod(self, pod: Pod) -> Site:
        place = self._node(pod.node).lab_name if pod.host_network else f"pod {pod.ref}"
        return Site(str(pod.ref), pod.ref.namespace, place)

    def _node(self, name: str) -> Site:
        return Site(f"{_NODE}/{name}", self.case.namespace, f"{_NODE} {name}")

    # Names

    def hosts(self, site: Site) -> str:
        """An /etc/hosts for programs in this place: what the cluster's DNS would answer there, and pods by their names.

        Where the lab has a DNS server of its own, services and names of outside are left to it: policies speak of lookups.
        """
        by_address: dict[str, list[str]] = {"127.0.0.1": ["localhost"], "::1": ["localhost", "ip6-localhost"]}
        own = self.placement.addresses.get(f"pod:{site.name}", ())
        for addresses, name in self._resolved(site.namespace):
            for address in addresses:
                known = by_address.setdefault(address, [])
                if name not in known:
                    known.append(name)
        for address in own:
            by_address.setdefault(address, []).append(site.hostname)
        lines = [f"{address}\t{' '.join(dict.fromkeys(names))}" for address, names in by_address.items()]
        return "\n".join(["# Of the lab, made by `harness lab exec`.", *lines, ""])

    def resolv_conf(self, site: Site) -> str:
        """A resolv.conf for programs in this place, as the kubelet writes it. Without a DNS server in the lab it names nobody."""
        servers = self.placement.addresses.get(DNS_SERVICE, ())
        lines = [f"nameserver {address}" for address in servers] or [
            "# The lab has no DNS server: what there is stands in /etc/hosts, and nothing else resolves.",
            "nameserver 127.0.0.1",
        ]
        search = " ".join((f"{site.namespace}.svc.{CLUSTER_DOMAIN}", f"svc.{CLUSTER_DOMAIN}", CLUSTER_DOMAIN))
        return "\n".join([*lines, f"search {search}", "options ndots:5 timeout:1 attempts:1", ""])

    def _resolved(self, namespace: str) -> Iterator[tuple[tuple[str, ...], str]]:
        """Addresses and a name for them. A short name belongs to a service before a pod, as in a cluster."""
        at = self.placement.addresses
        services = {(each.namespace, each.name) for each in self.placement.state.services}
        if DNS_SERVICE not in at:
            for service in self.placement.state.services:
                full = f"{service.name}.{service.namespace}"
                short = [service.name] if service.namespace == namespace else []
                for name in (*short, full, f"{full}.svc", f"{full}.svc.{CLUSTER_DOMAIN}"):
                    yield self._of_service(service), name
            for external in self.case.externals.values():
                for name in (external.name, *external.names):
                    yield at.get(f"external:{external.name}", ()), name
        for ref in self._pods():
            addresses = at.get(f"pod:{ref}", ())
            if (ref.namespace, ref.name) not in services:
                if ref.namespace == namespace:
                    yield addresses, ref.name
                yield addresses, f"{ref.name}.{ref.namespace}"
            yield addresses, f"{ref.name}.{ref.namespace}.pod"
        for key, addresses in at.items():
            kind, _, name = key.partition(":")
            if kind == _NODE:
                yield addresses, f"node-{name}"
            elif key in OUTSIDE:
                yield addresses, key

    def _pods(self) -> list[PodRef]:
        return [pod.ref for pod in self.placement.state.pods]

    def _of_service(self, service: Service) -> tuple[str, ...]:
        own = self.placement.addresses.get(f"service:{service.namespace}/{service.name}", ())
        return own or tuple(address for ref in self.backends(service) for address in self.placement.addresses.get(f"pod:{ref}", ()))

    def backends(self, service: Service) -> tuple[PodRef, ...]:
        """The pods that a service selects."""
        wanted: Mapping[str, str] | None = service.selector
        if wanted is None:
            return ()
        return tuple(
            pod.ref for pod in self.placement.state.pods if pod.ref.namespace == service.namespace and wanted.items() <= pod.labels.items()
        )
