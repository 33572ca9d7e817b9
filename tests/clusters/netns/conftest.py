"""One lab per test process, and the means to say in a line what is deployed, enforced and sent."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cases.case import Case, Placement, PolicyObject
from harness.cases.load import load_cases
from harness.clusters.base import Change, Observation
from harness.clusters.netns import probe_capabilities
from harness.clusters.netns.cluster import LabOptions, NetnsCluster
from harness.errors import Location
from harness.model.flow import EventType, Flow
from harness.model.probe import Probe, Site
from harness.model.traffic import Family, Protocol, Request
from harness.model.verdict import PolicyRef


def require_lab() -> None:
    machine = probe_capabilities()
    if not machine.usable:
        pytest.skip(f"{machine.why}. {machine.hint}")


@pytest.fixture(scope="session")
def started_lab() -> Iterator[NetnsCluster]:
    require_lab()
    cluster = NetnsCluster(LabOptions())
    yield cluster
    cluster.close()


class Bench:
    """A lab with a case in it."""

    def __init__(self, cluster: NetnsCluster, folder: Path) -> None:
        self.cluster = cluster
        self.placement: Placement
        self._folder = folder
        self._ids = itertools.count(1)

    def case(self, text: str) -> Case:
        """A case of these endpoints (and so on), with one phase that is not of interest."""
        document = {"case": "bench", **yaml.safe_load(text)}
        names = list(document["endpoints"])
        document["phases"] = {"baseline": [{"deny": f"{names[0]} -> {names[-1]}:9", "undeclared": True}]}
        path = self._folder / "test_bench.yaml"
        path.write_text(json.dumps(document))
        return load_cases(path)[0]

    def deploy(self, text: str) -> Placement:
        self.placement = self.cluster.prepare(self.case(text))
        return self.placement

    def apply(self, *texts: str, remove: Sequence[PolicyRef] = ()) -> int:
        """Apply policies given as YAML; `name: SPEC` is a CiliumNetworkPolicy of the namespace `default`."""
        documents = [document for text in texts for document in yaml.safe_load_all(text)]
        return self.cluster.apply(Change(tuple(remove), tuple(_policy(document) for document in documents)))

    def address(self, target: str, family: Family = Family.IPV4) -> str:
        """The address of `pod`, `world`, `node:a`, `service:ns/name`, `external:key`, `kube-apiserver`; an address is itself."""
        if target[0].isdigit() or target.count(":") > 1:
            return target
        key = target if target in self.placement.addresses else f"pod:default/{target}"
        found = self.placement.address(key, family)
        assert found is not None, key
        return found

    def probe(
        self,
        source: str,
        target: str,
        port: int = 8080,
        protocol: Protocol = Protocol.TCP,
        *,
        family: Family = Family.IPV4,
        servers: Sequence[str] | None = None,
        serve: str = "auto",
        timeout: float = 1.0,
        request: Request | None = None,
        liveness: bool = False,
        backends: Sequence[tuple[str, int]] = (),
    ) -> Probe:
        """A probe from `source` (a pod, or a site such as `world:`) to `target`."""
        number = next(self._ids)
        kind, colon, name = source.partition(":")
        site = Site(kind, name) if colon or source == "kube-apiserver" else Site("pod", f"default/{source}")
        if servers is None:
            key = f"pod:default/{target}"
            servers = (
                (f"default/{target}",) if key in self.placement.addresses else (target.replace("node:", "node-").removeprefix("external:"),)
            )
        return Probe(
            id=number,
            site=site,
            protocol=protocol,
            family=family,
            address=self.address(target, family),
            port=port,
            nonce=f"nonce{number:06x}",
            timeout=timeout,
            expected_servers=tuple(servers),
            serve=serve,
            request=request,
            liveness=liveness,
            alternatives=tuple(backends),
        )

    def send(self, *probes: Probe) -> list[Observation]:
        """The observations in the order of the probes."""
        found = {observation.probe.id: observation for observation in self.cluster.probe(probes)}
        return [found[probe.id] for probe in probes]

    def try_(self, *arguments: Any, **settings: Any) -> Observation:
        """One probe, as `probe` makes it."""
        return self.send(self.probe(*arguments, **settings))[0]


def _policy(document: dict[str, Any]) -> PolicyObject:
    if "kind" not in document:
        ((name, spec),) = document.items()
        document = {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": name, "namespace": "default"},
            "spec": spec,
        }
    metadata = document["metadata"]
    return PolicyObject(PolicyRef(document["kind"], metadata.get("namespace", ""), metadata["name"]), document, Location("bench.yaml", 1))


def drops(observation: Observation) -> list[Flow]:
    """The drop events of a probe."""
    return [flow for flow in observation.flows if flow.event_type == EventType.DROP]


def verdicts(observation: Observation) -> list[Flow]:
    """The policy-verdict events of a probe."""
    return [flow for flow in observation.flows if flow.event_type == EventType.POLICY_VERDICT]


@pytest.fixture
def bench(started_lab: NetnsCluster, tmp_path: Path) -> Iterator[Bench]:
    yield Bench(started_lab, tmp_path)
    started_lab.release()
