"""What a user reads when the kubeconfig is wrong, or the API server is not there, not itself or not in the mood. Real sockets on loopback."""

from __future__ import annotations

import socket
import socketserver
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from harness.clusters.kubernetes.client import API_ERRORS, Api, translated
from harness.clusters.kubernetes.cluster import KubernetesCluster, KubernetesOptions
from harness.errors import ClusterError
from tests.clusters.kubernetes.apiserver import served


def opened(context: str | None = None) -> str:
    """What the user is told, as one text."""
    with pytest.raises(ClusterError) as raised:
        Api.connect(context)
    assert "\n" not in raised.value.message
    assert " object at 0x" not in raised.value.message
    return str(raised.value)


def test_a_wrong_context_is_told_with_all_there_are(kubeconfig):
    kubeconfig()
    said = opened("stagign")
    assert "no context 'stagign'" in said
    assert "did you mean `staging`? its contexts: staging, production" in said


@pytest.mark.parametrize("text", ["", "{", "[]", "contexts: 3\n", "apiVersion: v1\nkind: Config\n"])
def test_what_is_no_kubeconfig_is_named(text, tmp_path, monkeypatch):
    path = tmp_path / "broken"
    path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    assert f"no usable kubeconfig ({path})" in opened()


def test_a_kubeconfig_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert "KUBECONFIG" in opened()


def test_a_credential_plugin_that_gives_nothing_is_told_by_its_command(kubeconfig):
    kubeconfig(
        exec={"apiVersion": "client.authentication.k8s.io/v1", "command": "false", "args": ["get-token"], "interactiveMode": "Never"}
    )
    assert "credential plugin gave no credentials for context 'staging': false get-token" in opened()


def test_where_nobody_listens_the_address_is_told(kubeconfig):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
        kubeconfig(address)
        said = opened()
    assert f"the API server of context 'staging' ({address}) does not answer" in said
    assert "Connection refused" in said


def test_a_name_that_does_not_resolve_is_told(kubeconfig):
    kubeconfig("https://no-such-host.invalid:6443")
    assert "no-such-host.invalid" in opened()


def test_a_certificate_of_an_authority_that_nobody_trusts_is_told(kubeconfig, tmp_path):
    import ssl

    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=other",
        "-keyout",
        key,
        "-out",
        certificate,
    ]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        kubeconfig(f"https://127.0.0.1:{server.server_address[1]}")
        assert "certificate verify failed" in opened().lower()
        server.shutdown()


def test_a_server_that_hangs_up_is_told(kubeconfig):
    class HangUp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(10)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), HangUp) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        kubeconfig(f"http://127.0.0.1:{server.server_address[1]}")
        assert "Connection" in opened()
        server.shutdown()


def test_a_proxy_that_answers_for_the_server_is_quoted(kubeconfig):
    with served(lambda _: (502, "<html>\n<h1>Bad\nGateway</h1>"), sane=False) as address:
        kubeconfig(address)
        assert "502 Bad Gateway: <html> <h1>Bad Gateway</h1>" in opened()


def test_every_permission_that_is_missing_is_named_and_nothing_is_created(kubeconfig):
    asked: list[str] = []

    def answer(path: str) -> tuple[int, object]:
        asked.append(path)
        return (201, {"status": {"allowed": False}, "spec": {}})

    with served(answer) as address:
        kubeconfig(address)
        with pytest.raises(
            ClusterError, match=r"the user of context 'staging' may not: create namespaces, .*delete namespaces, "
        ) as raised:
            KubernetesCluster(KubernetesOptions())
        assert "docs/rbac/" in str(raised.value)
    assert set(asked) == {"/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"}


def test_a_user_whom_the_server_does_not_know_is_told_so(kubeconfig):
    unauthorized = {"kind": "Status", "status": "Failure", "message": "Unauthorized", "code": 401}
    with served(lambda _: (401, unauthorized)) as address:
        kubeconfig(address)
        with pytest.raises(ClusterError, match="cannot ask what this user may do: Unauthorized"):
            KubernetesCluster(KubernetesOptions())


@pytest.mark.parametrize("error", API_ERRORS)
def test_whatever_the_client_raises_becomes_the_harness_own_error(error):
    with pytest.raises(ClusterError, match="the case could not be deployed: ") as raised, translated("the case could not be deployed"):
        raise error("because")
    assert "because" in str(raised.value)


def test_what_is_the_harness_own_already_stays_as_it_is():
    own = ClusterError("pod shop/web cannot start")
    with pytest.raises(ClusterError) as raised, translated("the case could not be deployed"):
        raise own
    assert raised.value is own


def test_a_mistake_of_ours_is_not_dressed_up_as_the_clusters():
    with pytest.raises(ZeroDivisionError), translated("the case could not be deployed"):
        _ = 1 / 0
