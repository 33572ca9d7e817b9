"""Relay over TLS: found in the cluster, trusted by its own authority, and asked by a real gRPC client."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import shutil
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer

import pytest

from harness.clusters.kubernetes.client import Api
from harness.clusters.kubernetes.relay import Forward, Relay, credentials, find_relay, server_name
from harness.errors import FlowsUnavailableError
from harness.hubble.client import Observer
from tests.clusters.kubernetes.apiserver import VERSION, served
from tests.hubble.observing import make_flow, serving

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes the certificates, is not installed")
TLS_RELAY = Relay("kube-system", "hubble-relay-0", 4245, tls=True)
SERVICES = "/api/v1/services"
PODS = "/api/v1/namespaces/kube-system/pods"
AUTHORITY = "/api/v1/namespaces/kube-system/secrets/hubble-relay-server-certs"


def certificate(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """An authority, and a key and a certificate for the DNS name that it signed."""
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
    ca, ca_key, key, signed = (folder / each for each in ("ca.pem", "ca.key", "tls.key", "tls.pem"))

    def openssl(*words: str | Path) -> None:
        subprocess.run(["openssl", "req", "-x509", *curve, *words], check=True, capture_output=True)

    openssl("-subj", "/CN=Cilium CA", "-keyout", ca_key, "-out", ca)
    openssl("-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}", "-CA", ca, "-CAkey", ca_key, "-keyout", key, "-out", signed)
    return ca, key, signed


@asynccontextmanager
async def behind_tls(folder: Path, key: Path, signed: Path) -> AsyncIterator[str]:
    """A real Observer behind TLS on loopback: its address."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(signed, key)
    context.set_alpn_protocols(["h2"])

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async with serving(folder) as (store, server):
        store.publish(make_flow())
        store.publish(make_flow())

        async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner, outer = await asyncio.open_unix_connection(server.addresses[0].removeprefix("unix://"))
            await asyncio.gather(carry(reader, outer), carry(inner, writer), return_exceptions=True)

        front = await asyncio.start_server(joined, "127.0.0.1", 0, ssl=context)
        yield f"127.0.0.1:{front.sockets[0].getsockname()[1]}"
        front.close()


def secret(ca: bytes) -> tuple[int, object]:
    return 200, {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "x"}, "data": {"ca.crt": base64.b64encode(ca).decode()}}


async def asked(folder: Path, trusted: object, name: str, key: Path, signed: Path, within: float = 30.0) -> int:
    async with (
        behind_tls(folder, key, signed) as address,
        await Observer.connect(address, credentials=trusted, server_name=name, within=within) as observer,
    ):
        return (await observer.status()).num_flows


def trusted_by(kubeconfig, answer: tuple[int, object]) -> object:
    with served(lambda path: answer if path == AUTHORITY else (404, {})) as address:
        kubeconfig(address)
        return credentials(Api.connect(), TLS_RELAY)


def test_relay_is_asked_over_tls_and_trusted_by_its_own_authority(kubeconfig, tmp_path):
    ca, key, signed = certificate(tmp_path, "*.hubble-relay.cilium.io")
    trusted = trusted_by(kubeconfig, secret(ca.read_bytes()))
    assert asyncio.run(asked(tmp_path, trusted, server_name(TLS_RELAY), key, signed)) == 2


def test_one_that_another_authority_signed_is_not_trusted(kubeconfig, tmp_path):
    (tmp_path / "other").mkdir()
    other, *_ = certificate(tmp_path / "other", "*.hubble-relay.cilium.io")
    _, key, signed = certificate(tmp_path, "*.hubble-relay.cilium.io")
    trusted = trusted_by(kubeconfig, secret(other.read_bytes()))
    with pytest.raises(FlowsUnavailableError):
        asyncio.run(asked(tmp_path, trusted, server_name(TLS_RELAY), key, signed, within=1.0))


def test_one_that_calls_itself_something_else_is_not_relay(kubeconfig, tmp_path):
    ca, key, signed = certificate(tmp_path, "*.elsewhere.example")
    trusted = trusted_by(kubeconfig, secret(ca.read_bytes()))
    with pytest.raises(FlowsUnavailableError):
        asyncio.run(asked(tmp_path, trusted, server_name(TLS_RELAY), key, signed, within=1.0))


@pytest.mark.parametrize("answer", [(403, {"message": "secrets is forbidden"}), (200, {"kind": "Secret", "metadata": {}, "data": {}})])
def test_an_authority_that_cannot_be_read_is_said(answer, kubeconfig):
    with pytest.raises(FlowsUnavailableError, match=r"speaks TLS, and its authority .* cannot be read"):
        trusted_by(kubeconfig, answer)


def found(kubeconfig, port: int, pods: list[object]) -> Relay:
    service = {
        "metadata": {"name": "hubble-relay", "namespace": "kube-system"},
        "spec": {"selector": {"k8s-app": "hubble-relay"}, "ports": [{"port": port, "targetPort": "grpc"}]},
    }
    answers = {SERVICES: {"kind": "ServiceList", "items": [service]}, PODS: {"kind": "PodList", "items": pods}}
    with served(lambda path: (200, answers[path])) as address:
        kubeconfig(address)
        return find_relay(Api.connect())


def pod(name: str, ready: str, **metadata: str) -> object:
    ports = [{"name": "grpc", "containerPort": 4245}]
    return {
        "metadata": {"name": name, **metadata},
        "spec": {"containers": [{"name": "relay", "ports": ports}]},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


@pytest.mark.parametrize(("port", "tls"), [(80, False), (443, True)])
def test_a_pod_that_is_ready_is_found_and_its_port_by_name(port, tls, kubeconfig):
    ending = pod("ending", "True", deletionTimestamp="2026-11-23T10:00:00Z")
    assert found(kubeconfig, port, [pod("starting", "False"), ending, pod("running", "True")]) == Relay("kube-system", "running", 4245, tls)


def test_where_none_is_ready_it_says_how_many_there_are(kubeconfig):
    with pytest.raises(FlowsUnavailableError, match=r"no pod of Hubble Relay in kube-system is ready \(1 there\)"):
        found(kubeconfig, 80, [pod("starting", "False")])


class BrokenOff(BaseRequestHandler):
    """An API server that lets one forward a port, and whose connection is reset by the first data that comes."""

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.request.recv(65536)
        if b"portforward" not in head:
            body = json.dumps(VERSION).encode()
            self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            return
        fields = dict(line.split(": ", 1) for line in head.decode().strip().split("\r\n")[1:])
        accepted = hashlib.sha1(
            (fields["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode(), usedforsecurity=False
        ).digest()
        self.request.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(accepted) + b"\r\n\r\n"
        )
        for channel in b"\x00\x01":
            self.request.sendall(bytes([0x82, 3, channel]) + (4245).to_bytes(2, "little"))
        self.request.recv(65536)
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.request.close()

    def finish(self) -> None:
        pass


def test_a_connection_that_breaks_ends_at_this_side_too(kubeconfig):
    """Else the gRPC client would wait for ever for flows that cannot come, and never connect again."""
    with ThreadingTCPServer(("127.0.0.1", 0), BrokenOff) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        kubeconfig(f"http://127.0.0.1:{server.server_address[1]}")
        forward = Forward(Api.connect(), "kube-system", "hubble-relay-0", 4245)
        try:
            with socket.create_connection(("127.0.0.1", int(forward.address.rpartition(":")[2])), timeout=10) as near:
                near.sendall(b"hello")
                assert near.recv(1) == b""
        finally:
            forward.close()
            server.shutdown()
