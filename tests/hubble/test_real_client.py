"""Cilium's own `hubble` client understands our server.

It is built from Cilium's module by `make tools` (needs Go), or taken from PATH.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.hubble.convert import from_json
from harness.model.flow import FiveTuple, Flow, FlowEndpoint, FlowVerdict, L7Record, LostEvents
from harness.model.traffic import Direction, Protocol
from harness.model.verdict import PolicyRef
from tests.hubble.observing import now_flow, serving

ROOT = Path(__file__).resolve().parents[2]
HUBBLE = shutil.which("hubble") or shutil.which(ROOT / "build/tools/hubble")

pytestmark = pytest.mark.skipif(HUBBLE is None, reason="no `hubble` client on PATH or in build/tools; `make tools` builds it (needs Go)")

WEB = FlowEndpoint(300, "shop", "web-1", ("k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop"), "default", 11)
DB = FlowEndpoint(301, "shop", "db-0", ("k8s:app=db",), "default", 12)
WORLD = FlowEndpoint(2, labels=("reserved:world",))
BACKEND = PolicyRef("CiliumNetworkPolicy", "shop", "backend")

ALLOWED = now_flow(40001, source=WEB, destination=DB, ingress_allowed_by=(BACKEND,), tcp_flags=("SYN",), uuid="u-allowed")
DROPPED = now_flow(
    40002,
    source=WEB,
    destination=DB,
    verdict=FlowVerdict.DROPPED,
    drop_reason=181,
    ingress_denied_by=(BACKEND,),
    tcp_flags=("SYN",),
    policy_log=("shop deny",),
    is_reply=None,
    uuid="u-dropped",
)
PING = now_flow(
    five_tuple=FiveTuple(Protocol.ICMPV6, "fd00::1", 0, "2001:db8::7", 128),
    source=WEB,
    destination=WORLD,
    direction=Direction.EGRESS,
    verdict=FlowVerdict.DROPPED,
    drop_reason=133,
    event_type=1,
    sub_type=133,
    node="default/b",
)
REQUEST = now_flow(
    40003, source=WEB, destination=DB, event_type=129, verdict=FlowVerdict.DROPPED, l7=L7Record("http", 1, method="GET", url="http://db/admin", protocol="HTTP/1.1")
)  # fmt: skip
LOST = LostEvents(9, "PERF_EVENT_RING_BUFFER", ALLOWED.time, ALLOWED.time + 1, "default/a")
FLOWS = (ALLOWED, DROPPED, PING, REQUEST)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """`asked("status")` is what `hubble status` prints when it asks a server that has FLOWS."""
    folder = tmp_path_factory.mktemp("hubble")
    # Neither the configuration of whoever runs the tests nor any proxy has a say.
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    loop = asyncio.new_event_loop()

    async def ask(*words: str) -> str:
        assert HUBBLE
        process = await asyncio.create_subprocess_exec(
            HUBBLE, *words, "--server", f"unix://{folder}/hubble.sock", env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, errors = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0, errors.decode()
        return out.decode()

    context = serving(folder, nodes=["a", "b"], namespaces=["shop", "dev"], version="1.20.0-lab")
    store, _ = loop.run_until_complete(context.__aenter__())
    for event in FLOWS:
        store.publish(event)
    try:
        yield lambda *words: loop.run_until_complete(ask(*words))
    finally:
        loop.run_until_complete(context.__aexit__(None, None, None))
        loop.close()


def observed(asked: Any, *words: str) -> list[Flow]:
    out = [from_json(line) for line in asked("observe", "-o", "json", *words).splitlines()]
    assert all(isinstance(event, Flow) for event in out)
    return out


def test_what_it_prints_as_json_is_what_was_published(asked: Any):
    assert observed(asked, "--last", "10") == list(FLOWS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--verdict", "DROPPED"], [DROPPED, PING, REQUEST]),
        (["--verdict", "FORWARDED"], [ALLOWED]),
        (["--not", "--verdict", "DROPPED"], [ALLOWED]),
        (["--from-pod", "shop/web", "--to-pod", "shop/db"], [ALLOWED, DROPPED, REQUEST]),
        (["--namespace", "dev"], []),
        (["--to-namespace", "shop", "--type", "policy-verdict"], [ALLOWED, DROPPED]),
        (["--type", "drop"], [PING]),
        (["--type", "drop:133"], [PING]),
        (["--type", "l7"], [REQUEST]),
        (["--from-port", "40001"], [ALLOWED]),
        (["--to-port", "8080", "--tcp-flags", "SYN"], [ALLOWED, DROPPED]),
        (["--protocol", "icmp"], [PING]),
        (["--protocol", "http"], [REQUEST]),
        (["--ipv6"], [PING]),
        (["--from-ip", "10.0.0.0/24"], [ALLOWED, DROPPED, REQUEST]),
        (["--to-label", "reserved:world"], [PING]),
        (["--label", "app=db"], [ALLOWED, DROPPED, REQUEST]),
        (["--to-identity", "world"], [PING]),
        (["--drop-reason-desc", "POLICY_DENY"], [DROPPED]),
        (["--traffic-direction", "egress"], [PING]),
        (["--node-name", "b"], [PING]),
        (["--uuid", "u-allowed"], [ALLOWED]),
        (["--http-method", "GET", "--http-path", "^/admin"], [REQUEST]),
        (["--last", "1"], [REQUEST]),
        (["--first", "2"], [ALLOWED, DROPPED]),
        (["--since", "2h", "--until", "1h"], []),
        (["--since", "1h"], list(FLOWS)),
    ],
)
def test_its_filters_choose(asked: Any, words: list[str], expected: list[Flow]):
    count = [] if {"--last", "--first", "--since"} & set(words) else ["--last", "10"]
    assert observed(asked, *count, *words) == expected


def test_a_field_mask_leaves_the_rest_out(asked: Any):
    out = asked("observe", "-o", "json", "--last", "1", "--field-mask", "verdict,source.pod_name")
    assert json.loads(out)["flow"] == {"verdict": "DROPPED", "source": {"pod_name": "web-1"}}


def test_people_read_the_drop_and_its_reason(asked: Any):
    text = asked("observe", "--last", "10", "--print-policy-names", "--uuid", "u-dropped")
    assert "shop/web-1:40002" in text
    assert "policy-verdict:none INGRESS DENIED" in text


def test_status_nodes_and_namespaces(asked: Any):
    status = asked("status")
    assert "4/1,024" in status
    assert "Connected Nodes: 2/2" in status
    nodes = json.loads(asked("list", "nodes", "-o", "json"))
    assert [(node["name"], node["state"]) for node in nodes] == [("default/a", "NODE_CONNECTED"), ("default/b", "NODE_CONNECTED")]
    assert asked("list", "namespaces").split() == ["NAMESPACE", "dev", "shop"]


def test_it_follows(tmp_path: Path):
    async def run() -> None:
        async with serving(tmp_path) as (store, server):
            assert HUBBLE
            process = await asyncio.create_subprocess_exec(
                HUBBLE, "observe", "--follow", "-o", "json", "--server", server.addresses[0], "--first", "0", "--since", "1h",
                env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            try:
                assert process.stdout
                for event in (ALLOWED, LOST, DROPPED):
                    store.publish(event)
                    line = await asyncio.wait_for(process.stdout.readline(), 60)
                    assert from_json(line) == event
            finally:
                process.kill()
                await process.wait()

    asyncio.run(run())
