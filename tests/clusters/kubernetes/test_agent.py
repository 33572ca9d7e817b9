"""The program inside the pods, run as a program over loopback."""

from __future__ import annotations

import ast
import json
import os
import secrets
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harness.clusters.kubernetes import objects
from harness.clusters.kubernetes.objects import CLIENT, PROGRAMS, SERVER

FOLDER = Path(objects.__file__).parent


def here(command: Sequence[str]) -> list[str]:
    """A command of the pods, with this Python and the files where they are."""
    return [sys.executable, *command[1:-1], str(FOLDER / Path(command[-1]).name)]


class Pod:
    """A server and a client of one pod."""

    def __init__(self, serve: str, protocol: str) -> None:
        kind = socket.SOCK_DGRAM if protocol == "UDP" else socket.SOCK_STREAM
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.bind(("127.0.0.1", 0))
            self.port: int = sock.getsockname()[1]
        self.protocol = protocol
        self.serve = serve
        ports = json.dumps([{"port": self.port, "protocol": protocol, "serve": serve}])
        environment = {**os.environ, "HARNESS_NAME": "shop/web", "HARNESS_POD": secrets.token_hex(8), "HARNESS_PORTS": ports}
        self.name = environment["HARNESS_NAME"]
        self.server = subprocess.Popen(here(SERVER), env=environment)
        self.client = subprocess.Popen(here(CLIENT), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, line: str) -> None:
        self.client.stdin.write(line + "\n")
        self.client.stdin.flush()

    def hear(self) -> dict:
        return json.loads(self.client.stdout.readline())

    def plan(self, *, port: int | None = None, timeout: float = 5.0, vouched: bool = False) -> None:
        http = {"method": "GET", "path": "/x", "host": "", "headers": []} if self.serve in {"auto", "http"} else None
        probe = {"id": 7, "protocol": self.protocol, "address": "127.0.0.1", "port": port or self.port, "nonce": "abc", "timeout": timeout}
        self.say("plan " + json.dumps([{**probe, "source": "", "from": 0, "http": http, "vouched": vouched}]))

    def end(self) -> None:
        for process in (self.client, self.server):
            process.kill()
            process.wait()
        self.client.stdin.close()
        self.client.stdout.close()


@pytest.fixture
def pod(request) -> Iterator[Pod]:
    pod = Pod(*request.param)
    yield pod
    pod.end()


@pytest.mark.parametrize("pod", [("auto", "TCP"), ("http", "TCP"), ("echo", "TCP"), ("echo", "UDP")], indirect=True)
def test_an_answer_names_the_server_and_the_nonce_and_the_socket_was_told_before(pod):
    assert pod.hear() == {"ready": True, "why": ""}
    pod.plan()
    bound, result = pod.hear(), pod.hear()
    assert (bound["bound"], bound["five"][3:]) == (7, ["127.0.0.1", pod.port])
    assert (result["ending"], result["server"], result["nonce"], result["five"]) == ("answered", pod.name, "abc", bound["five"])
    assert result["status"] == (200 if pod.serve in {"auto", "http"} else None)


@pytest.mark.parametrize("pod", [("sink", "UDP"), ("sink", "TCP")], indirect=True)
def test_a_sink_says_only_over_the_back_door_that_it_saw(pod):
    pod.hear()
    pod.plan(timeout=30.0)
    pod.hear()
    saw = False
    while not saw:
        pod.say("seen 7 abc")
        saw = pod.hear()["saw"]
    pod.say("seen 8 other")
    assert pod.hear() == {"seen": 8, "saw": False}
    pod.say("stop 7")
    assert pod.hear()["ending"] == "stopped"
    pod.say("end")
    assert pod.client.wait(10) == 0


class Stranger(socketserver.BaseRequestHandler):
    """A server that knows nothing of us: says `words` to whatever it hears, and hangs up."""

    words = b""

    def handle(self) -> None:
        self.request.recv(65536)
        self.request.sendall(self.words)


@pytest.mark.parametrize("pod", [("auto", "TCP")], indirect=True)
@pytest.mark.parametrize(
    ("words", "status"),
    [(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404), (b"\x15\x03\x03\x00\x02\x02\x28", None), (b"", None)],
    ids=["web", "tls", "silent"],
)
def test_a_server_that_the_user_answers_for_need_not_know_us(words, status, pod, monkeypatch):
    monkeypatch.setattr(Stranger, "words", words)
    pod.hear()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        pod.plan(port=server.server_address[1], vouched=True)
        pod.hear()
        result = pod.hear()
        assert (result["ending"], result["status"], result["nonce"]) == ("answered", status, "")
        pod.plan(port=server.server_address[1])
        pod.hear()
        # For any other, only its own word counts.
        assert (pod.hear()["ending"] == "answered") is (status is not None)
        server.shutdown()


@pytest.mark.parametrize("pod", [("echo", "UDP")], indirect=True)
def test_where_nobody_listens_it_is_refused(pod):
    pod.hear()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        pod.plan(port=free.getsockname()[1])
        pod.hear()
        assert pod.hear()["ending"] == "refused"


@pytest.mark.parametrize("pod", [("sink", "UDP")], indirect=True)
def test_silence_is_a_time_out(pod):
    pod.hear()
    pod.plan(timeout=0.05)
    pod.hear()
    assert pod.hear()["ending"] == "timeout"


@pytest.mark.parametrize("pod", [("echo", "TCP")], indirect=True)
def test_it_ends_when_its_input_does(pod):
    pod.hear()
    pod.client.stdin.close()
    assert pod.client.wait(10) == 0
    pod.client.stdin = open(os.devnull, "w")  # noqa: SIM115, PTH123 -- closed by the fixture


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_is_of_the_standard_library_in_the_syntax_of_3_9(name):
    tree = ast.parse((FOLDER / name).read_text(), feature_version=(3, 9))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names
