"""Run as a process of its own: a thread sends without a pause while policies change around it, from exact ports to ranges and back. One
port is always allowed and the other always denied, whatever the policy of the moment. Prints how many packets went astray."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import tempfile
import threading
from pathlib import Path

from harness.clusters.netns import kernel
from harness.clusters.netns.lab import Lab
from harness.clusters.netns.wire import Deployment, Port
from harness.model.cluster import ClusterState, Pod
from harness.model.probe import Site
from harness.model.traffic import Family, PodRef, Protocol
from harness.policy.options import Options

CHANGES = 150
ALLOWED, DENIED = 5353, 5354


def policy(number: int) -> dict[str, object]:
    ports = [{"port": str(ALLOWED), "protocol": "UDP"}, {"port": str(6000 + number), "protocol": "UDP"}]
    if number % 3 == 1:
        ports = [{"port": str(5000 + number), "endPort": ALLOWED, "protocol": "UDP"}]
    spec = {"endpointSelector": {"matchLabels": {"app": "server"}}, "ingress": [{"fromEndpoints": [{}], "toPorts": [{"ports": ports}]}]}
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "p", "namespace": "d"}, "spec": spec}


async def main() -> dict[str, int]:
    lab = Lab(options=Options(), pods=1, emit=lambda _: None, store=None, folder=Path(tempfile.gettempdir()))
    client, server = PodRef("d", "client"), PodRef("d", "server")
    pods = (Pod(client, {"app": "client"}, "a"), Pod(server, {"app": "server"}, "b"))
    found = lab.prepare(
        Deployment("changes", ClusterState({"d": {}}, pods, nodes={"a": {}, "b": {}}), (Port(server, "", Protocol.UDP, 9, "sink"),), {})
    )
    address = found[f"pod:{server}"][0]
    await lab.apply([], [policy(0)])

    def bound(pod: PodRef, port: int) -> socket.socket:
        namespace, own = lab.place(Site("pod", str(pod)), Family.IPV4)
        namespace.enter()
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.bind((own, port))
        return sock

    sender, allowed, denied = bound(client, 0), bound(server, ALLOWED), bound(server, DENIED)
    allowed.settimeout(5.0)
    denied.setblocking(False)
    seen = {"sent": 0, "lost": 0, "leaked": 0}
    over = threading.Event()

    def send() -> None:
        while not over.is_set():
            seen["sent"] += 1
            sender.sendto(b"x", (address, DENIED))
            sender.sendto(b"x", (address, ALLOWED))
            try:
                allowed.recv(16)
            except TimeoutError:
                seen["lost"] += 1
            # On the same way and earlier: had it been let through, it would be here.
            try:
                denied.recv(16)
                seen["leaked"] += 1
            except BlockingIOError:
                pass

    thread = threading.Thread(target=send)
    thread.start()
    for number in range(1, CHANGES + 1):
        await lab.apply([], [policy(number)])
    over.set()
    thread.join()
    lab.close()
    return seen


if __name__ == "__main__":
    try:
        kernel.isolate()
    except OSError as error:
        sys.exit(f"forbidden: {error}")
    sys.stdout.write(json.dumps(asyncio.run(main())))
