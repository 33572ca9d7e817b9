"""The names that a case asks for: which, where they must lead, and whether the cluster's DNS knows them yet. A service's name is there some time
after the service; what is outside must have been told to the DNS by somebody."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator, Mapping

from harness.cases.case import Case, PartyKind, Placement, Serve
from harness.cases.resolver import KUBE_DNS
from harness.clusters.kubernetes.client import Api
from harness.clusters.kubernetes.externals import WITNESS, Externals
from harness.clusters.kubernetes.pods import PodAgent
from harness.clusters.kubernetes.rename import Renaming
from harness.clusters.kubernetes.resolver import Resolver
from harness.errors import ClusterError
from harness.model.probe import Ending, Probe, ProbeResult, Site
from harness.model.traffic import Family, Protocol, Request, RequestKind

_WITHIN = 15.0
_BETWEEN = 0.2
_NOERROR = 0
_SERVICES = (".svc", ".svc.cluster.local")


def asked(case: Case) -> frozenset[str]:
    """Every name that is looked up, in the case's own words; lower case, without a last dot."""
    return frozenset(_asked(case))


def _asked(case: Case) -> Iterator[str]:
    for phase in case.phases:
        for expectation in phase.expectations:
            if expectation.request is not None and expectation.request.kind is RequestKind.LOOKUP:
                yield plain(expectation.request.name)
            for target in expectation.targets:
                if target.party.kind is PartyKind.NAME:
                    yield plain(target.party.name)


def plain(name: str) -> str:
    """A name as it is compared: lower case, without a last dot."""
    return name.rstrip(".").lower()


def outside(case: Case, externals: Externals) -> Mapping[str, frozenset[str]]:
    """The names of what is outside that the case asks for, and the addresses that each must lead to."""
    wanted, found = asked(case), externals.addresses(case)
    return {
        name: frozenset(found.get(f"external:{spec.name}", ()))
        for spec in case.externals.values()
        for name in map(plain, spec.names)
        if name in wanted
    }


def unknown(api: Api, name: str, meant: frozenset[str]) -> str:
    """Why the cluster's DNS does not lead to all of these addresses by that name, as the end of a skip's sentence; '' where it does."""
    try:
        resolver = Resolver.find(api)
        if resolver is None or not resolver.pods:
            return f"nobody can be asked for `{name}`: the cluster has no DNS service that is ready"
        for family in sorted({Family.of(each) for each in meant}, key=str):
            wanted = {each for each in meant if Family.of(each) is family}
            for found in resolver.ask(api, [name], family)[name]:
                if not wanted <= found:
                    where = ", ".join(sorted(found)) or "nothing"
                    return f"the cluster's DNS leads from `{name}` to {where}, not to {', '.join(sorted(wanted))}"
    except ClusterError as error:
        return f"nobody can tell where `{name}` leads: {error.message}"
    return ""


def _service(name: str) -> str:
    service, namespace = name.split(".")[:2]
    return f"{namespace}/{service}"


async def resolvable(agent: PodAgent, case: Case, renaming: Renaming, placement: Placement) -> None:
    """Wait until every DNS pod knows the names of the case's services that are asked for, at most 15 s: the baseline then says what is wrong."""
    until = asyncio.get_running_loop().time() + _WITHIN
    pending = list(_probes(case, renaming, placement))
    while pending and asyncio.get_running_loop().time() < until:
        known = {
            event.id
            async for event in agent.run(pending)
            if isinstance(event, ProbeResult) and event.ending is Ending.ANSWERED and event.status == _NOERROR
        }
        pending = [probe for probe in pending if probe.id not in known]
        if pending:
            await asyncio.sleep(_BETWEEN)


def _probes(case: Case, renaming: Renaming, placement: Placement) -> Iterator[Probe]:
    """By the witness, of each DNS pod: no policy of the case is in the way, and no pod's stale answer is hidden by another's."""
    names = sorted(name for name in asked(case) if name.endswith(_SERVICES) and _service(name) in case.services)
    number = 0
    for key, addresses in placement.addresses.items():
        if not key.startswith(f"pod:{KUBE_DNS.namespace}/") or not addresses:
            continue
        for name in names:
            number += 1
            yield Probe(
                number,
                Site("pod", str(WITNESS)),
                Protocol.UDP,
                Family.of(addresses[0]),
                addresses[0],
                53,
                secrets.token_hex(8),
                1.0,
                request=Request(RequestKind.LOOKUP, name=renaming.dns(name)),
                serve=Serve.DNS.value,
                liveness=True,
            )
