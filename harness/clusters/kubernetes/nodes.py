"""Pods that stand for nodes: in a node's network, they send what a case says that `host` or `remote-node` sends, and serve what it says
that they serve. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.cases.case import Case, Party, PartyKind, PortSpec
from harness.cases.names import HOST, REMOTE_NODE
from harness.model.traffic import PodRef

_NODES = frozenset({Party(PartyKind.BUILTIN, HOST), Party(PartyKind.BUILTIN, REMOTE_NODE)})


def site(node: str) -> PodRef:
    """How probes name the node as the place they are sent from."""
    return PodRef("", f"node:{node}")


def server(node: str) -> str:
    """How the engine names the server on a node."""
    return f"node-{node}"


def needed(case: Case) -> bool:
    """Whether any expectation sends from a node or to one."""
    return any(
        not _NODES.isdisjoint({*expectation.sources, *(target.party for target in expectation.targets)})
        for phase in case.phases
        for expectation in phase.expectations
    )


def served(case: Case, placed: Mapping[PodRef, str], node: str) -> tuple[PortSpec, ...]:
    """The ports that must answer on a node and that no host endpoint of the case there has."""
    taken = {
        (port.port, port.protocol)
        for spec in case.endpoints.values()
        if spec.host_network and any(placed[ref] == node for ref in spec.pods())
        for port in spec.ports
    }
    return tuple(PortSpec(number, protocol) for number, protocol in sorted(set(_asked(case)) - taken))


def _asked(case: Case) -> Iterator[tuple[int, Any]]:
    for phase in case.phases:
        for expectation in phase.expectations:
            for target in expectation.targets:
                if target.party in _NODES and target.port is not None and not expectation.undeclared:
                    yield target.port, target.protocol
