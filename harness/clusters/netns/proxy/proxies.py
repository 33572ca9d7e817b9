"""The proxies of all nodes of a lab: which ports each of them needs, and that they are there before anything is redirected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.clusters.netns.kernel import Namespace
from harness.clusters.netns.proxy import config
from harness.clusters.netns.proxy.envoy import Envoy
from harness.clusters.netns.redirect import ProxyPort
from harness.errors import ClusterError


class Proxies:
    """Makes an Envoy for a node when that first has a port. Raises ClusterError where one does not do as it is told."""

    def __init__(
        self, folder: Path, tell: Callable[[str, ProxyPort, Mapping[str, Any]], None], died: Callable[[str], None], *, ipv6: bool
    ) -> None:
        """`tell` gets each line of an access log with its node and port; `died` the node whose Envoy ended by itself."""
        self._folder = folder
        self._tell = tell
        self._died = died
        self._ipv6 = ipv6
        self._envoys: dict[str, Envoy] = {}
        self._wanted: dict[str, dict[int, ProxyPort]] = {}
        self._served: dict[str, frozenset[int]] = {}
        self._told: dict[str, dict[int, ProxyPort]] = {}
        """Every port that a node's Envoy ever had: what it logs of one may come when that is gone."""

    async def serve(self, node: str, namespace: Namespace, ports: Iterable[ProxyPort]) -> None:
        """Have these ports on a node; they take connections when this returns. Those of the last call stay too, since packets may still
        be led there, and those of earlier ones until something new is to be told."""
        wanted = {port.id: port for port in ports}
        former = self._wanted.get(node, {})
        envoy = self._envoys.get(node)
        if envoy is not None and envoy.dead:
            envoy.close()
            del self._envoys[node]
            self._served.pop(node, None)
            envoy = None
        if wanted.keys() <= self._served.get(node, frozenset()):
            self._wanted[node] = wanted
            return
        if envoy is None:
            envoy = self._envoys[node] = self._envoy(node, namespace)
            await envoy.start()
        serving = {**former, **wanted}
        self._told.setdefault(node, {}).update(serving)
        # Whatever becomes of it: an Envoy that refuses one listener still drops those that it is no longer told of.
        self._served[node] = self._served.get(node, frozenset()) & serving.keys()
        await envoy.serve([listener for port in serving.values() for listener in config.listeners(port, ipv6=self._ipv6)])
        self._wanted[node] = wanted
        self._served[node] = frozenset(serving)

    def check(self) -> None:
        """Raises ClusterError where an Envoy has died that is needed."""
        for node, envoy in self._envoys.items():
            if envoy.dead and self._wanted.get(node):
                raise envoy.failure()

    async def catch_up(self) -> None:
        """Tell of everything that has passed by now."""
        for envoy in list(self._envoys.values()):
            await envoy.catch_up()

    @property
    def pids(self) -> Mapping[str, int]:
        """The process of each node's Envoy."""
        return {node: envoy.pid for node, envoy in self._envoys.items() if not envoy.dead}

    def close(self) -> None:
        for envoy in self._envoys.values():
            envoy.close()

    def _envoy(self, node: str, namespace: Namespace) -> Envoy:
        def tell(line: Mapping[str, Any]) -> None:
            self._tell(node, self._told[node][int(line["port"])], line)

        return Envoy(node, namespace, self._folder, tell, lambda: self._died(node))


def unsupported(port: ProxyPort) -> ClusterError | None:
    """Why no proxy here can do what a port's rules ask for."""
    if port.rules.beyond:
        return ClusterError(
            f"the lab's proxies do not do what a rule for port {port.target} asks for: {port.rules.beyond}",
            hint="Run this case on a cluster, or with `--cluster=memory`.",
        )
    if port.redirect not in ("http", "tls", "dns"):
        return ClusterError(
            f"the lab does not enforce {port.redirect} rules yet (port {port.target})",
            hint="Run this case on a cluster that does, or with `--cluster=memory`.",
        )
    return None
