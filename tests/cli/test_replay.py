"""`harness predict POLICY... --flows-from FILE`, as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.hubble.convert import to_json
from harness.model.flow import Flow, FlowEndpoint, FlowVerdict, LostEvents
from tests.hubble.observing import make_flow

ONLY_WEB = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress: [{fromEndpoints: [{matchLabels: {app: web}}], toPorts: [{ports: [{port: "8080"}]}]}]
"""
NAMESPACE = "k8s:io.kubernetes.pod.namespace=shop"
WEB = FlowEndpoint(300, "shop", "web", ("k8s:app=web", NAMESPACE))
DB = FlowEndpoint(301, "shop", "db", ("k8s:app=db", NAMESPACE))
OLD = FlowEndpoint(302, "shop", "old", ("k8s:app=old", NAMESPACE))


def flow(port: int, source: FlowEndpoint = WEB, **changes: object) -> Flow:
    return make_flow(port, source=source, destination=DB, **changes)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("db.yaml").write_text(ONLY_WEB)


def record(*events: object) -> None:
    Path("flows.json").write_text("".join(json.dumps(to_json(each)) + "\n" for each in events))


def harness(*args: str, **options: object):
    return CliRunner().invoke(main, ["predict", *args], **options)


def test_what_would_break_is_told_and_the_exit_code_says_so():
    record(flow(1), flow(2), flow(3, OLD), flow(4, OLD))
    result = harness("db.yaml", "--flows-from", "flows.json")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "deny: shop/old -> shop/db:8080 (egress allow, ingress default-deny, L7 n/a); recorded: 2 forwarded",
        "2 different flows in 4 recorded connections: 1 would be decided otherwise",
    ]


def test_what_would_open_is_told_too():
    record(flow(1, verdict=FlowVerdict.DROPPED, event_type=1, drop_reason=133, is_reply=None))
    result = harness("db.yaml", "--flows-from", "flows.json")
    assert result.exit_code == 1
    assert result.stdout.startswith("allow: shop/web -> shop/db:8080")
    assert "recorded: 1 dropped" in result.stdout


def test_nothing_otherwise_is_exit_code_0():
    record(flow(1), flow(2, OLD, verdict=FlowVerdict.DROPPED, event_type=1, drop_reason=133, is_reply=None))
    result = harness("db.yaml", "--flows-from", "-", input=Path("flows.json").read_text())
    assert (result.exit_code, result.stdout) == (0, "2 different flows in 2 recorded connections: none would be decided otherwise\n")


def test_scripts_get_every_flow():
    record(flow(1), flow(2, OLD))
    lines = [json.loads(line) for line in harness("db.yaml", "--flows-from", "flows.json", "-o", "json").stdout.splitlines()]
    assert [(line["flow"], line["verdict"], line["otherwise"]) for line in lines] == [
        ("shop/web -> shop/db:8080", "allow", False),
        ("shop/old -> shop/db:8080", "deny", True),
    ]


def test_what_the_recording_cannot_tell_is_said():
    Path("named.yaml").write_text(ONLY_WEB.replace('"8080"', "http"))
    record(flow(1), LostEvents(7, "HUBBLE_RING_BUFFER"), flow(2, FlowEndpoint(999)))
    said = harness("named.yaml", "--flows-from", "flows.json").stderr
    assert "CiliumNetworkPolicy/shop/db names ports" in said
    assert "7 events were lost" in said
    assert "1 flows left out" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--flows-from", "flows.json"], "name the policies to try"),
        (["db.yaml", "--flows-from", "nowhere.json"], "nowhere.json:1: cannot be read"),
        (["db.yaml", "--flows-from", "db.yaml"], "db.yaml:2: not JSON"),
        (["db.yaml", "--flows-from", "none.json"], "no flow in it says who talked to whom"),
        (["nowhere.yaml", "--flows-from", "flows.json"], "nowhere.yaml"),
        (["db.yaml", "a -> b:1", "--flows-from", "flows.json"], "--flows-from has flows and workloads of its own"),
    ],
)
def test_mistakes_are_told(arguments: list[str], said: str):
    record(flow(1))
    Path("none.json").write_text("\n")
    result = harness(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
