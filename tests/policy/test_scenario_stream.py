"""`harness predict --scenarios`: the format of the answers, and that the stream goes on past whatever is malformed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.cli.predict import predict
from tests.policy.policy_worlds import Document, cnp, knp, ports

CLUSTER = {
    "namespaces": {"a": {}},
    "pods": [
        {"namespace": "a", "name": "client", "labels": {"app": "client"}, "serviceAccount": None, "ports": [], "node": "n1"},
        {
            "namespace": "a",
            "name": "web",
            "labels": {"app": "web"},
            "serviceAccount": "default",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "node": "n1",
        },
    ],
    "externals": [{"name": "out", "ip": "203.0.113.10"}],
}


def scenario(*policies: Document, flows: list[Any], **more: Any) -> Document:
    return {"id": "one", **CLUSTER, "policies": list(policies), "flows": flows, **more}


def flow(src: str, dst: str, port: int = 8080, protocol: str = "TCP", **more: Any) -> Document:
    return {"src": src, "dst": dst, "protocol": protocol, "port": port, **more}


CLIENT_TO_WEB = flow("a/client", "a/web")


def stream(*lines: Any) -> tuple[list[Any], int]:
    text = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines)
    result = CliRunner().invoke(predict, ["--scenarios", "-"], input=text)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return [json.loads(line) for line in result.output.splitlines()], result.exit_code


def test_one_line_in_one_line_out() -> None:
    web = cnp("web", ingress=[{"fromEndpoints": [{"matchLabels": {"app": "client"}}], "toPorts": ports("http/TCP")}])
    flows = [
        CLIENT_TO_WEB,
        flow("a/client", "a/web", 80),
        flow("host", "a/web"),
        flow("world:203.0.113.10", "a/web"),
        flow("a/web", "remote-node", 22),
    ]
    answers, code = stream(scenario(web, flows=flows))
    assert code == 0
    assert answers == [
        {
            "id": "one",
            "policy_errors": {},
            "verdicts": [
                {"ingress": "allow", "egress": "allow", "verdict": "allow"},
                {"ingress": "default-deny", "egress": "allow", "verdict": "deny"},
                {"ingress": "allow", "egress": "n/a", "verdict": "allow"},
                {"ingress": "default-deny", "egress": "n/a", "verdict": "deny"},
                {"ingress": "n/a", "egress": "allow", "verdict": "allow"},
            ],
        }
    ]


def test_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "scenarios.jsonl"
    path.write_text(json.dumps(scenario(flows=[CLIENT_TO_WEB])) + "\n\n", encoding="utf-8")
    result = CliRunner().invoke(predict, ["--scenarios", str(path)])
    assert json.loads(result.output)["verdicts"] == [{"ingress": "allow", "egress": "allow", "verdict": "allow"}]


def test_refused_policies_are_part_of_the_answer() -> None:
    (answer,), code = stream(
        scenario(cnp("web", ingress=[], egress=[]), knp("k", ingress=[{"ports": [{"port": 0}]}]), flows=[CLIENT_TO_WEB])
    )
    assert code == 0
    assert {name: text.partition(":")[0] for name, text in answer["policy_errors"].items()} == {
        "CiliumNetworkPolicy/a/web": "agent",
        "NetworkPolicy/a/k": "schema",
    }
    assert answer["verdicts"][0]["verdict"] == "allow"


def test_lists_are_their_items() -> None:
    closed = knp("closed", subject={}, policyTypes=["Ingress"])
    bare = {key: value for key, value in knp("open", subject={}, ingress=[{}]).items() if key not in ("apiVersion", "kind")}
    kubectl = {"apiVersion": "v1", "kind": "List", "items": [closed]}
    api = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicyList", "metadata": {}, "items": [bare]}
    answers, code = stream(
        scenario(kubectl, flows=[CLIENT_TO_WEB]),
        scenario({**kubectl, "items": [kubectl, api]}, flows=[CLIENT_TO_WEB]),
        scenario({**kubectl, "items": []}, flows=[CLIENT_TO_WEB]),
    )
    assert code == 0
    assert [each["policy_errors"] for each in answers] == [{}, {}, {}]
    assert [each["verdicts"][0]["ingress"] for each in answers] == ["default-deny", "allow", "allow"]


def test_l7_is_answered_where_it_is_asked() -> None:
    web = cnp("web", ingress=[{"toPorts": ports("8080/TCP", rules={"http": [{"path": "/public", "headers": ["X-A: 1"]}]})}])
    dns = cnp("dns", egress=[{"toPorts": ports("53/ANY", rules={"dns": [{"matchPattern": "*.io"}]})}])
    flows = [
        CLIENT_TO_WEB,
        {**CLIENT_TO_WEB, "http": {"method": "GET", "path": "/public", "headers": {"x-a": "1"}}},
        {**CLIENT_TO_WEB, "http": {"path": "/public", "headers": [["X-A", "1"]]}},
        {**CLIENT_TO_WEB, "http": {"method": "GET", "path": "/private"}},
        flow("a/web", "a/client", 53, "UDP", dns="x.io"),
        flow("a/web", "a/client", 53, "UDP", dns="x.org"),
        flow("a/web", "host", 443, sni="x.io"),
    ]
    (answer,), code = stream(scenario(web, dns, flows=flows))
    assert code == 0
    assert [(each["verdict"], each.get("l7", "-")) for each in answer["verdicts"]] == [
        ("allow", "-"),
        ("allow", "allow"),
        ("allow", "allow"),
        ("deny", "deny"),
        ("allow", "allow"),
        ("deny", "deny"),
        ("deny", "n/a"),
    ]


def test_options_and_enforcement() -> None:
    names = cnp("names", egress=[{"toFQDNs": [{"matchName": "x.io"}]}])
    out = [flow("a/web", "world:203.0.113.10", 443)]
    answers, code = stream(
        scenario(names, flows=out),
        scenario(names, flows=out, options={"names": "unknown", "cilium": "1.19.4"}),
        scenario(flows=[CLIENT_TO_WEB], enforcement="always"),
        scenario(flows=[CLIENT_TO_WEB], enforcement=""),
        scenario(flows=[flow("a/web", "host", 22)], options={"hostFirewall": True}),
    )
    assert code == 0
    assert [each["verdicts"][0]["verdict"] for each in answers] == ["deny", "unknown", "deny", "allow", "allow"]
    assert answers[4]["verdicts"][0]["ingress"] == "allow", "a host with the firewall on is an endpoint"


BAD_FLOWS: list[Any] = [
    flow("a/gone", "a/web"),
    flow("a/web", "a/gone"),
    flow("host", "a/gone"),
    flow("", "a/web"),
    flow("web", "a/web"),
    flow("world:nowhere", "a/web"),
    flow("a/client", "a/web", 70000),
    flow("a/client", "a/web", -1),
    {**CLIENT_TO_WEB, "port": "80"},
    {**CLIENT_TO_WEB, "port": True},
    {**CLIENT_TO_WEB, "port": 80.0},
    {**CLIENT_TO_WEB, "src": ["a/client"]},
    flow("a/client", "a/web", 80, "HTTP"),
    {**CLIENT_TO_WEB, "protocol": None},
    {**CLIENT_TO_WEB, "http": "GET /"},
    {**CLIENT_TO_WEB, "http": {"headers": 1}},
    {**CLIENT_TO_WEB, "dns": 1},
    {**CLIENT_TO_WEB, "dns": "x", "sni": "x"},
    "a/client -> a/web:80",
    None,
    [],
    {},
]


@pytest.mark.parametrize("bad", BAD_FLOWS, ids=str)
def test_a_bad_flow_is_an_error_in_its_place(bad: Any) -> None:
    (answer, after), code = stream(scenario(flows=[CLIENT_TO_WEB, bad, CLIENT_TO_WEB]), scenario(flows=[CLIENT_TO_WEB]))
    assert code == 2
    assert [sorted(each) for each in answer["verdicts"]] == [["egress", "ingress", "verdict"], ["error"], ["egress", "ingress", "verdict"]]
    assert answer["verdicts"][1]["error"]
    assert after["verdicts"][0]["verdict"] == "allow"


BAD_SCENARIOS: list[Any] = [
    "{",
    "[1, 2]",
    "null",
    "[" * 100_000,
    {"id": "x", "namespaces": []},
    {"id": "x", "namespaces": {"a": {"k": 1}}},
    {"id": "x", "pods": {}},
    {"id": "x", "pods": [1]},
    {"id": "x", "pods": [{"name": "p"}]},
    {"id": "x", "pods": [{"namespace": "a", "name": "p", "labels": []}]},
    {"id": "x", "pods": [{"namespace": "a", "name": "p", "ports": [{"port": "80"}]}]},
    {"id": "x", "pods": [{"namespace": "a", "name": "p", "ports": [{"port": 80, "protocol": "XYZ"}]}]},
    {"id": "x", "pods": [{"namespace": "a", "name": "p", "serviceAccount": 1}]},
    {"id": "x", "externals": [{"name": "e", "ip": "somewhere", "kubeAPIServer": True}]},
    {"id": "x", "externals": [{"name": "e"}]},
    {"id": "x", "policies": ["p"]},
    {"id": "x", "policies": [{"kind": "Pod"}]},
    {"id": "x", "policies": [{}]},
    {"id": "x", "policies": [{"kind": "List"}]},
    {"id": "x", "policies": [{"kind": "NetworkPolicyList", "items": ["p"]}]},
    {"id": "x", "policies": [{"kind": "List", "items": [{"kind": "PodList", "items": []}]}]},
    {"id": "x", "flows": {}},
    {"id": "x", "options": []},
    {"id": "x", "options": {"cilium": "1.2"}},
    {"id": "x", "options": {"unheardOf": True}},
    {"id": "x", "options": {"hostFirewall": "yes"}},
    {"id": "x", "options": {"cidrMatchMode": 1}},
    {"id": "x", "enforcement": "sometimes"},
    {"id": "x", "enforcement": ["always"]},
    {"id": "x", "nodes": ["n"]},
    {"id": "x", "cidrGroups": [{"name": "g", "cidrs": ["ten"]}]},
    {"id": "x", "cidrGroups": [{"name": "g", "cidrs": [10]}]},
    {"id": "x", "services": [{"name": "s", "namespace": "a", "backends": ["ten"]}]},
    {"id": "x", "services": [{"name": "s", "namespace": "a", "backends": [10]}]},
]


@pytest.mark.parametrize("bad", BAD_SCENARIOS, ids=lambda value: str(value)[:60])
def test_a_bad_scenario_is_an_error_and_the_stream_goes_on(bad: Any) -> None:
    (answer, after), code = stream(bad, scenario(flows=[CLIENT_TO_WEB]))
    assert code == 2
    assert sorted(answer) == ["error", "id"]
    assert answer["error"]
    assert answer["id"] == ("x" if isinstance(bad, dict) else None)
    assert after["verdicts"][0]["verdict"] == "allow"


def test_services_cidr_groups_and_nodes_may_be_given() -> None:
    group = cnp("group", egress=[{"toCIDRSet": [{"cidrGroupRef": "g"}]}])
    service = cnp("service", egress=[{"toServices": [{"k8sService": {"serviceName": "s", "namespace": "a"}}]}])
    (answer,), code = stream(
        scenario(
            group,
            service,
            flows=[flow("a/web", "world:203.0.113.10"), flow("a/web", "a/client"), flow("a/web", "host")],
            cidrGroups=[{"name": "g", "cidrs": ["203.0.113.0/24"]}],
            services=[{"namespace": "a", "name": "s", "selector": {"app": "client"}, "ports": [{"port": 80}]}],
            nodes={"n1": {"role": "edge"}},
        )
    )
    assert code == 0
    assert [each["egress"] for each in answer["verdicts"]] == ["allow", "allow", "default-deny"]


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(predict, ["--scenarios", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "No such file" in result.output
