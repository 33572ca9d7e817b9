"""Run as a process of its own: a lab without its facade, rootless with the argument `nobody`, and a rule for its proxy. With `broken`, its Envoy is a
program that says something and ends. Prints what came back as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from harness.clusters.netns import kernel
from harness.clusters.netns.lab import Lab
from harness.clusters.netns.proxy import envoy
from harness.clusters.netns.wire import Deployment, Port
from harness.errors import ClusterError
from harness.hubble.server import FlowStore
from harness.model.cluster import ClusterState, Pod
from harness.model.flow import Flow
from harness.model.probe import Probe, ProbeResult, Site
from harness.model.traffic import Family, PodRef, Protocol, Request, RequestKind
from harness.policy.options import Options
from harness.probes.agent import AgentEvent
from tests.clusters.netns.inside import become_nobody

PUBLIC = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumNetworkPolicy",
    "metadata": {"name": "public", "namespace": "d"},
    "spec": {
        "endpointSelector": {"matchLabels": {"app": "server"}},
        "ingress": [{"toPorts": [{"ports": [{"port": "8080", "protocol": "TCP"}], "rules": {"http": [{"path": "/public"}]}}]}],
    },
}


async def main(folder: Path) -> dict[str, object]:
    results: asyncio.Queue[ProbeResult] = asyncio.Queue()

    def emit(event: AgentEvent) -> None:
        if isinstance(event, ProbeResult):
            results.put_nowait(event)

    store = FlowStore()
    lab = Lab(options=Options(), pods=1, emit=emit, store=store, folder=folder)
    client, server = PodRef("d", "client"), PodRef("d", "server")
    pods = (Pod(client, {"app": "client"}, "a"), Pod(server, {"app": "server"}, "b"))
    found = lab.prepare(
        Deployment("proxy", ClusterState({"d": {}}, pods, nodes={"a": {}, "b": {}}), (Port(server, "", Protocol.TCP, 8080, "http"),), {})
    )
    seen: dict[str, object] = {"euid": os.geteuid()}
    try:
        await lab.apply([], [PUBLIC])
    except ClusterError as error:
        lab.close()
        return {**seen, "error": error.message}
    for number, path in enumerate(("/public", "/private")):
        request = Request(RequestKind.HTTP, method="GET", path=path)
        site, address = Site("pod", str(client)), found[f"pod:{server}"][0]
        lab.run([Probe(number, site, Protocol.TCP, Family.IPV4, address, 8080, f"n{number}", 2.0, (str(server),), request, "http")])
        seen[path] = (await results.get()).status
    # A store of flows has no event to wait for.
    while not any(isinstance(entry.event, Flow) and entry.event.l7 and entry.event.dropped for entry in store.backwards()):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    seen["proxies"] = list(lab.proxies().values())
    lab.close()
    return seen


if __name__ == "__main__":
    if "nobody" in sys.argv:
        become_nobody()
        # The interpreter of whoever started us may be out of a nobody's reach; any will do to run a program that dies with us.
        if not os.access(sys.executable, os.X_OK):
            sys.executable = shutil.which("python3", path="/usr/local/bin:/usr/bin") or sys.exit(
                "forbidden: there is no python3 for nobody"
            )
    try:
        kernel.isolate()
    except OSError as error:
        sys.exit(f"forbidden: {error}")
    with tempfile.TemporaryDirectory() as made:
        if "broken" in sys.argv:
            program = Path(made, "envoy")
            program.write_text("#!/bin/sh\necho '[2026-01-01 00:00:00.000][1][critical] no room for a proxy here' >&2\nexit 3\n")
            program.chmod(0o700)
            envoy.executable = lambda: program
        sys.stdout.write(json.dumps(asyncio.run(main(Path(made)))))
