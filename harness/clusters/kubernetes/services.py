"""Are a case's services there yet? A service that kube-proxy has not programmed refuses; only a packet from each node can tell."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

from harness.cases.case import Case, Placement, Serve, ServiceSpec
from harness.clusters.kubernetes.pods import PodAgent
from harness.model.probe import Ending, Probe, ProbeResult, Site
from harness.model.traffic import Family, Protocol

_WITHIN = 15.0
_BETWEEN = 0.05


async def reachable(agent: PodAgent, case: Case, placement: Placement) -> None:
    """Wait until every service answers from every node that has pods of the case, at most 15 s: the baseline then says what is wrong."""
    until = asyncio.get_running_loop().time() + _WITHIN
    pending = list(_probes(case, placement))
    while pending and asyncio.get_running_loop().time() < until:
        answered = {
            event.id
            async for event in agent.run(pending)
            if isinstance(event, ProbeResult) and event.ending in {Ending.ANSWERED, Ending.RESET}
        }
        pending = [probe for probe in pending if probe.id not in answered]
        if pending:
            await asyncio.sleep(_BETWEEN)


def _probes(case: Case, placement: Placement) -> Iterator[Probe]:
    own = {ref for spec in case.endpoints.values() for ref in spec.pods()}
    clients = {pod.node: pod.ref for pod in placement.state.pods if pod.ref in own and not pod.host_network}
    number = 0
    for key, spec in case.services.items():
        for address in placement.addresses.get(f"service:{key}", ()):
            for port in spec.ports:
                if port.protocol is Protocol.SCTP or not _answers(case, spec, port.target_port, port.protocol):
                    continue
                for ref in clients.values():
                    number += 1
                    # No server is named: who answers does not matter, and nobody is asked whether it saw this.
                    yield Probe(
                        number,
                        Site("pod", str(ref)),
                        port.protocol,
                        Family.of(address),
                        address,
                        port.port,
                        secrets.token_hex(8),
                        0.5,
                        serve="echo",
                    )


def _answers(case: Case, spec: ServiceSpec, target: int | str, protocol: Protocol) -> bool:
    """Whether there is a backend that serves the port and answers."""
    return any(
        port.serve is not Serve.SINK
        for endpoint in case.endpoints.values()
        if endpoint.namespace == spec.namespace and all(endpoint.labels.get(key) == value for key, value in spec.selector.items())
        for port in endpoint.ports
        if port.protocol is protocol and target in {port.port, port.name}
    )
