"""Run as a process of its own: a lab without its facade, for what the facade has no call for. Prints what it saw as JSON.

With the argument `nobody` it gives up being root first, as far as the kernel is concerned: what follows is a rootless lab.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import socket
import sys
import tempfile
from pathlib import Path

from harness.clusters.netns import kernel
from harness.clusters.netns.lab import Lab
from harness.clusters.netns.wire import Deployment, Port
from harness.hubble.server import FlowStore
from harness.model.cluster import ClusterState, Pod
from harness.model.flow import EventType, Flow
from harness.model.probe import Probe, ProbeResult, Site
from harness.model.traffic import Family, PodRef, Protocol
from harness.policy.options import Options
from harness.probes.agent import AgentEvent

NOBODY = 65534
PR_SET_DUMPABLE = 4
SHUT = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumNetworkPolicy",
    "metadata": {"name": "shut", "namespace": "d"},
    "spec": {"endpointSelector": {"matchLabels": {"app": "server"}}, "ingress": [{}]},
}


def become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    # A process that changed its user may not write its own maps until it is dumpable again; one that was started as that user is.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1)


async def main() -> dict[str, object]:
    results: asyncio.Queue[ProbeResult] = asyncio.Queue()

    def emit(event: AgentEvent) -> None:
        if isinstance(event, ProbeResult):
            results.put_nowait(event)

    store = FlowStore()
    lab = Lab(options=Options(), pods=1, emit=emit, store=store, folder=Path(tempfile.gettempdir()))
    client, server = PodRef("d", "client"), PodRef("d", "server")
    found = lab.prepare(
        Deployment(
            case="held",
            state=ClusterState(
                {"d": {}}, (Pod(client, {"app": "client"}, "a"), Pod(server, {"app": "server"}, "b")), nodes={"a": {}, "b": {}}
            ),
            ports=(Port(server, "", Protocol.TCP, 7000, "echo"),),
            externals={},
        )
    )
    address = found[f"pod:{server}"][0]

    async def probe(number: int) -> str:
        lab.run([
            Probe(
                number, Site("pod", str(client)), Protocol.TCP, Family.IPV4, address, 7000, f"n{number}", 0.3, (str(server),), serve="echo"
            )
        ])
        return str((await results.get()).ending)

    seen: dict[str, object] = {"euid": os.geteuid(), "before": await probe(1)}
    namespace, own = lab.place(Site("pod", str(client)), Family.IPV4)
    namespace.enter()
    held = socket.socket()
    held.bind((own, 0))
    held.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(held, (address, 7000))

    async def say(word: str) -> str:
        await loop.sock_sendall(held, f"harness {word}\n".encode())
        try:
            return (await asyncio.wait_for(loop.sock_recv(held, 4096), 0.3)).decode().strip()
        except TimeoutError:
            return ""

    seen["held"] = await say("one")
    await lab.apply([], [SHUT])
    seen["cut"] = await say("two")
    port = held.getsockname()[1]
    seen["drops"] = [
        str(entry.event.direction)
        for entry in store.backwards()
        if isinstance(entry.event, Flow) and entry.event.event_type == EventType.DROP and entry.event.five_tuple.source_port == port
    ]
    seen["denied"] = await probe(2)
    held.close()
    lab.close()
    return seen


if __name__ == "__main__":
    if "nobody" in sys.argv:
        become_nobody()
    try:
        kernel.isolate()
    except OSError as error:
        sys.exit(f"forbidden: {error}")
    sys.stdout.write(json.dumps(asyncio.run(main())))
