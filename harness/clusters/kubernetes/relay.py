"""Hubble Relay on a cluster: where it is, and a local port that leads to it through the API server. Not the client: that is `harness.hubble`."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
from kubernetes.stream import portforward, ws_client
from msgspec import Struct
from websocket import WebSocketException

from harness.clusters.kubernetes.client import API_ERRORS, Api, said
from harness.errors import FlowsUnavailableError

_SELECTOR = "k8s-app=hubble-relay"
_CERTIFICATES = "hubble-relay-server-certs"
_SERVER_NAME = "harness.hubble-relay.cilium.io"
"""Relay's certificate is for *.hubble-relay.cilium.io (Cilium's chart)."""
_CHUNK = 1 << 16


class Relay(Struct, frozen=True):
    """A pod of Relay that is ready, and the port it listens on."""

    namespace: str
    pod: str
    port: int
    tls: bool


def find_relay(api: Api) -> Relay:
    """Raises FlowsUnavailableError, saying what is missing."""
    try:
        services = api.core.list_service_for_all_namespaces(label_selector=_SELECTOR, _request_timeout=10).items
        if not services:
            services = [
                each for each in api.core.list_service_for_all_namespaces(_request_timeout=10).items if each.metadata.name == "hubble-relay"
            ]
        if not services:
            raise FlowsUnavailableError(
                "this cluster has no Hubble Relay", hint="`cilium hubble enable` installs it; --hubble=off judges by packets only"
            )
        service = services[0]
        namespace = service.metadata.namespace
        selector = ",".join(f"{key}={value}" for key, value in (service.spec.selector or {}).items())
        pods = api.core.list_namespaced_pod(namespace, label_selector=selector, _request_timeout=10).items
    except API_ERRORS as error:
        raise FlowsUnavailableError(
            f"cannot look for Hubble Relay: {said(error)}", hint="docs/rbac/ has the role that this needs"
        ) from None
    ready = [pod for pod in pods if _is_ready(pod)]
    if not ready:
        raise FlowsUnavailableError(f"no pod of Hubble Relay in {namespace} is ready ({len(pods)} there)")
    port = service.spec.ports[0]
    return Relay(namespace, ready[0].metadata.name, _number(port.target_port, ready[0]), tls=port.port == 443)


def _is_ready(pod: Any) -> bool:
    """And is not about to end, as one that is being replaced."""
    conditions = pod.status.conditions or []
    return pod.metadata.deletion_timestamp is None and any(each.type == "Ready" and each.status == "True" for each in conditions)


def _number(target: Any, pod: Any) -> int:
    if isinstance(target, int):
        return target
    for container in pod.spec.containers:
        for port in container.ports or []:
            if port.name == target:
                return int(port.container_port)
    return 4245


def credentials(api: Api, relay: Relay) -> grpc.ChannelCredentials | None:
    """What to trust where Relay speaks TLS: its own authority, from its secret. None where it speaks plainly."""
    if not relay.tls:
        return None
    try:
        data = api.core.read_namespaced_secret(_CERTIFICATES, relay.namespace, _request_timeout=10).data or {}
        return grpc.ssl_channel_credentials(base64.b64decode(data["ca.crt"]))
    except (*API_ERRORS, KeyError, ValueError) as error:
        raise FlowsUnavailableError(
            f"Hubble Relay speaks TLS, and its authority (secret {relay.namespace}/{_CERTIFICATES}, ca.crt) cannot be read: {said(error)}",
            hint="allow `get` on that secret (docs/rbac/), or pass --hubble=off",
        ) from None


def server_name(relay: Relay) -> str | None:
    return _SERVER_NAME if relay.tls else None


class _PortForward(ws_client.PortForward):
    """The client's own, ended properly: when its connection breaks, its thread dies and leaves whoever reads from it waiting for ever."""

    def _proxy(self) -> None:
        try:
            super()._proxy()  # type: ignore[no-untyped-call]
        except (OSError, RuntimeError, WebSocketException):
            pass  # an end is gone, or speaks something else: what follows tells the other
        finally:
            for port in self.local_ports.values():
                port.python.close()


def _connect(port: int, configuration: Any, _method: str, url: str, **kwargs: Any) -> _PortForward:
    """What the client's `portforward` makes of its request, with ours in place of its own."""
    websocket = ws_client.create_websocket(
        configuration, ws_client.get_websocket_url(url, kwargs.get("query_params")), kwargs.get("headers")
    )
    return _PortForward(websocket, [port])  # type: ignore[no-untyped-call]


class Forward:
    """A local port that leads to one port of one pod: each connection is a port-forward of its own. `address` is where it listens."""

    def __init__(self, api: Api, namespace: str, pod: str, port: int, *, moved: Callable[[], Relay] | None = None) -> None:
        """`moved` says where it leads to when that pod is gone (FlowsUnavailableError: nowhere yet)."""
        self._api = api
        self._target = (namespace, pod, port)
        self._moved = moved
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[Any] = set()
        self._lock = threading.Lock()
        self._closed = False
        threading.Thread(target=self._accept, name=f"port-forward {pod}", daemon=True).start()

    def close(self) -> None:
        """Stop listening and end every connection. Idempotent."""
        with self._lock:
            self._closed = True
            sockets = list(self._open)
        # A shutdown wakes the thread in accept; closing alone would not.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _far(self) -> Any:
        """A new connection to the pod, or to the one that came in its place."""
        try:
            return self._connected()
        except API_ERRORS:
            if self._moved is None:
                raise
            relay = self._moved()
            self._target = (relay.namespace, relay.pod, relay.port)
            return self._connected()

    def _connected(self) -> Any:
        namespace, pod, port = self._target
        core = self._api.streaming()
        # The client's `portforward`, which is this function with another way to connect.
        request = partial(portforward.func, partial(_connect, port), {"_preload_content": False})
        return request(core.connect_get_namespaced_pod_portforward, pod, namespace, ports=str(port)).socket(port)

    def _join(self, near: socket.socket) -> None:
        try:
            far = self._far()
        except (*API_ERRORS, FlowsUnavailableError):
            near.close()  # the gRPC client sees it and says that the Observer is unavailable
            return
        far.setblocking(True)
        with self._lock:
            self._open.add(near)
            closed = self._closed
        if closed:
            near.close()
        back = threading.Thread(target=_pump, args=(far, near), daemon=True)
        back.start()
        _pump(near, far)
        back.join()
        with self._lock:
            self._open.discard(near)
        near.close()
        far.close()


def _pump(source: Any, sink: Any) -> None:
    """Until either ends. HTTP/2 has no half-closed connections: either end's end is the end of both."""
    with suppress(OSError):
        while data := source.recv(_CHUNK):
            sink.sendall(data)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
