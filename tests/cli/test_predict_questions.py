"""`harness predict` asked about manifests: answers, exit codes, and mistakes with their places."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: api}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: web}}]
      toPorts:
        - ports: [{port: "8080", protocol: TCP}]
          rules: {http: [{method: GET, path: /public}]}
"""
WORKLOADS = """\
kind: List
items:
  - {kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}}
  - {kind: Pod, metadata: {name: api, namespace: shop, labels: {app: api}}}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "api.yaml").write_text(POLICY)
    (tmp_path / "workloads.yaml").write_text(WORKLOADS)
    return tmp_path


def ask(files: Path, *questions: str, workloads: str = "workloads.yaml", stdin: str | None = None):
    source = workloads if workloads == "-" else str(files / workloads)
    return CliRunner().invoke(main, ["predict", str(files / "policies"), "-f", source, *questions], input=stdin)


@pytest.mark.parametrize(
    ("question", "code", "line"),
    [
        ("shop/web -> shop/api:8080 GET /public", 0, "allow: "),
        ("shop/web -> shop/api:8080 GET /admin", 1, "deny: "),
        ("shop/web -> shop/api:8080/udp", 1, "deny: "),
        ("world:192.0.2.1 -> shop/api:8080", 1, "deny: "),
        ("shop/api -> shop/web:80", 0, "allow: "),
    ],
)
def test_one_question_gets_one_line_and_an_exit_code(files: Path, question: str, code: int, line: str) -> None:
    result = ask(files, question)
    assert (result.exit_code, result.output.startswith(line + question)) == (code, True), result.output


def test_one_denied_among_several_is_exit_code_1(files: Path) -> None:
    result = ask(files, "shop/api -> shop/web:80", "shop/web -> shop/api:81", workloads="-", stdin=WORKLOADS)
    assert result.exit_code == 1
    assert [line.split(":")[0] for line in result.output.splitlines()] == ["allow", "deny"]


def test_json_names_the_rules_that_decided(files: Path) -> None:
    result = ask(files, "shop/web -> shop/api:8080 GET /public", "-o", "json")
    answer = json.loads(result.output)
    assert answer["ingress"]["rules"] == ["CiliumNetworkPolicy/shop/api ingress[0]"]
    assert (answer["verdict"], answer["l7"], answer["egress"]["rules"]) == ("allow", "allow", [])


def test_nothing_to_answer_is_not_a_success(files: Path) -> None:
    result = ask(files)
    assert result.exit_code == 2
    assert "declares a port" in result.output


def test_mistakes_are_exit_code_2(files: Path) -> None:
    for question in ("shop/web -> shop/api", "shop/web -> shop/nobody:1", "shop/web -> world:x:1", "a -> b:70000"):
        assert ask(files, question).exit_code == 2, question
    assert CliRunner().invoke(main, ["predict", str(files / "policies")]).exit_code == 2


@pytest.mark.parametrize(
    "text", ["kind: Deployment\nmetadata: {name: a}\n", "kind: ConfigMap\nmetadata: {name: a}\n", "kind: [\n", "- 1\n"]
)
def test_bad_workloads_are_told_with_file_and_line(files: Path, text: str) -> None:
    (files / "bad.yaml").write_text(text)
    result = ask(files, "a -> b:1", workloads="bad.yaml")
    assert result.exit_code == 2
    assert "bad.yaml:" in result.output


def test_a_refused_policy_is_warned_of(files: Path) -> None:
    (files / "policies" / "empty.yaml").write_text(
        "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: e}, spec: {endpointSelector: {}, ingress: []}}"
    )
    assert "CiliumNetworkPolicy/default/e is refused" in ask(files, "shop/api -> shop/web:80").output


def test_a_missing_file_is_said_before_the_missing_question(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["predict", str(tmp_path / "none.yaml")])
    assert result.exit_code == 2
    assert "none.yaml" in result.output
    assert "ask something" not in result.output


WIDER = """\
---
kind: Node
metadata: {name: one}
---
kind: Deployment
metadata: {name: shop, namespace: front}
spec: {template: {metadata: {labels: {app: shop}}, spec: {containers: [{ports: [{containerPort: 8080, name: http}]}]}}}
---
kind: Service
metadata: {name: shop, namespace: front}
spec: {selector: {app: shop}, ports: [{port: 80, targetPort: http}]}
"""
OUTWARD = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
    - toEndpoints: [{matchLabels: {k8s-app: kube-dns, "k8s:io.kubernetes.pod.namespace": kube-system}}]
      toPorts: [{ports: [{port: "53"}], rules: {dns: [{matchPattern: "*.example.com"}]}}]
    - toFQDNs: [{matchName: api.example.com}]
    - toCIDR: [203.0.0.0/8]
    - toEndpoints: [{matchLabels: {app: shop, "k8s:io.kubernetes.pod.namespace": front}}]
      toPorts: [{ports: [{port: "8080"}]}]
    - toCIDR: [198.51.100.0/24]
      toPorts: [{ports: [{port: "443", protocol: TCP}], serverNames: [tls.example.com]}]
    - toEndpoints: [{matchLabels: {app: api}}]
      icmps: [{fields: [{type: 8, family: IPv4}]}]
"""


@pytest.mark.parametrize(
    ("question", "verdict"),
    [
        ("shop/web -> service/front/shop:80", "allow"),
        ("shop/web -> shop.front.svc.cluster.local:80", "allow"),
        ("shop/web -> front/shop:http", "allow"),
        ("shop/web -> front/shop:80", "deny"),
        ("shop/web -> world:443", "deny"),
        ("shop/web -> 203.0.113.1:443", "allow"),
        ("shop/web -> world:[2001:db8::1]:443", "deny"),
        ("shop/web -> host:22", "deny"),
        ("host -> shop/web:22", "allow"),
        ("remote-node -> shop/api:8080", "deny"),
        ("shop/web -> kube-apiserver:6443", "deny"),
        ("shop/web -> shop/api icmp", "deny"),  # ingress of the target
        ("shop/web -> front/shop icmp", "deny"),
        ("shop/api -> front/shop icmp6", "allow"),
        ("shop/web -> api.example.com:443", "allow"),
        ("shop/web -> www.example.com:443", "deny"),
        ("shop/web -> kube-dns lookup www.example.com", "allow"),
        ("shop/web -> kube-dns lookup www.example.org", "deny"),
        ("shop/web -> 198.51.100.7:443 tls tls.example.com", "allow"),
        ("shop/web -> 198.51.100.7:443 tls other.example.com", "deny"),
    ],
)
def test_questions_are_in_the_words_of_cases(files: Path, question: str, verdict: str) -> None:
    (files / "policies" / "out.yaml").write_text(OUTWARD)
    (files / "workloads.yaml").write_text("---\n" + WORKLOADS + WIDER)
    result = ask(files, question)
    assert (result.exit_code, result.output.split(":")[0]) == (int(verdict != "allow"), verdict), result.output


def test_any_and_lists_ask_about_each(files: Path) -> None:
    (files / "workloads.yaml").write_text("---\n" + WORKLOADS + WIDER)
    lines = ask(files, "any -> service/front/shop:80", "host, shop/web -> shop/api:1, shop/api:2").output.splitlines()
    assert [line.partition(": ")[2].split(" (egress")[0] for line in lines] == [
        "shop/web -> service/front/shop:80 (front/shop:8080)",
        "shop/api -> service/front/shop:80 (front/shop:8080)",
        "host -> shop/api:1",
        "host -> shop/api:2",
        "shop/web -> shop/api:1",
        "shop/web -> shop/api:2",
    ]


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("shop/wbe -> shop/api:1", "did you mean `shop/web`?"),
        ("web -> shop/api:1", "did you mean `shop/web`?"),
        ("shop/web -> service/front/shpo:80", "did you mean `service/front/shop`?"),
        ("shop/web -> service/front/shop:81", "its ports: 80/TCP"),
        ("service/front/shop -> shop/web:81", "sends nothing"),
        ("shop/web -> front/shop:htp", "did you mean `http`?"),
        ("shop/web => shop/api:1", "write `->`"),
        ("shop/web -> shop/api:1/udpp", "did you mean"),
        ("shop/web -> shop/api:1 get /", "did you mean `GET`?"),
    ],
)
def test_what_was_meant_is_suggested(files: Path, question: str, said: str) -> None:
    (files / "workloads.yaml").write_text("---\n" + WORKLOADS + WIDER)
    result = ask(files, question)
    assert (result.exit_code, said in result.output) == (2, True), result.output


def test_wide_names_the_rules_under_each_answer(files: Path) -> None:
    assert "  ingress: allow by CiliumNetworkPolicy/shop/api ingress[0]\n" in ask(files, "shop/web -> shop/api:8080", "-o", "wide").output


def test_one_question_loads_neither_numpy_nor_rich_nor_pydantic(files: Path) -> None:
    code = (
        "import sys; from harness.cli.main import main\n"
        f"main(['predict', {str(files / 'policies')!r}, '-f', {str(files / 'workloads.yaml')!r}, 'shop/api -> shop/web:80'], standalone_mode=False)"
    )
    loaded = "print([each for each in ('numpy', 'rich', 'pydantic') if each in sys.modules])"
    script = code.replace("main(['predict'", "try:\n  main(['predict'") + f"\nfinally:\n  {loaded}\n"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (run.returncode, run.stdout.splitlines()[-1]) == (0, "[]"), run.stderr
