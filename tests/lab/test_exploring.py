"""Policies change in a lab that is up, and probes and flows show what that does."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from harness.errors import ClusterError, UsageError
from harness.hubble.convert import from_json
from harness.lab.calls import Caller
from harness.lab.folder import LabFolder
from harness.model.flow import Flow, FlowVerdict
from tests.lab.conftest import ROOT, Labs

HUBBLE = shutil.which("hubble") or shutil.which(f"{ROOT}/build/tools/hubble")
ONLY_FRONTEND = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: only-frontend}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: frontend}}]
      toPorts: [{ports: [{port: "8080", protocol: TCP}]}]
"""


def policy(labs: Labs, text: str, name: str = "policy.yaml") -> str:
    file = labs.folder / name
    file.write_text(text)
    return str(file)


@pytest.fixture
def applied(lab: Labs) -> Iterator[Labs]:
    """Only the frontend reaches the backend."""
    lab.ok("apply", policy(lab, ONLY_FRONTEND))
    yield lab
    lab.ok("delete", "only-frontend")


def test_apply_says_what_is_selected_and_it_is_enforced_when_it_returns(lab: Labs) -> None:
    assert lab.ok("probe", "intruder -> backend:8080").count("allow: intruder -> backend") == 2
    said = lab.ok("apply", policy(lab, ONLY_FRONTEND))
    assert said == "CiliumNetworkPolicy/shop/only-frontend selects shop/backend-0, shop/backend-1\n"
    denied = lab.run("probe", "intruder -> backend:8080", "frontend -> backend:8080")
    assert denied.returncode == 1
    assert denied.stdout.count("deny: intruder -> backend") == 2
    assert denied.stdout.count("allow: frontend -> backend") == 2
    assert "only-frontend" in lab.ok("status")
    assert lab.ok("delete", "CiliumNetworkPolicy/shop/only-frontend") == "CiliumNetworkPolicy/shop/only-frontend deleted\n"
    assert "no policy is in force" in lab.ok("status")
    assert lab.run("probe", "intruder -> backend:8080").returncode == 0


def test_policies_that_do_nothing_and_refused_ones_are_told_loudly(lab: Labs) -> None:
    typo = ONLY_FRONTEND.replace("only-frontend", "typo").replace("app: backend", "app: bakend")
    refused = ONLY_FRONTEND.replace("only-frontend", "refused").replace('"8080"', '"808080"')
    done = lab.run("apply", "-", input=f"{typo}\n---\n{refused}")
    assert done.returncode == 1
    assert "typo does nothing: selects no endpoint of namespace shop: no pod has app=bakend (nearest: app=backend)" in done.stdout
    assert "refused is refused, so nothing of it is enforced" in done.stdout
    lab.ok("delete", "typo", "refused")


def test_policies_are_applied_and_deleted_as_scripts_want_it(lab: Labs) -> None:
    applied = json.loads(lab.ok("apply", "-o", "json", "-n", "dev", policy(lab, ONLY_FRONTEND.replace("app: backend", "app: intruder"))))
    assert [each["policy"] for each in applied["applied"]] == ["CiliumNetworkPolicy/dev/only-frontend"]
    assert applied["applied"][0]["selects"] == ["dev/intruder"]
    assert json.loads(lab.ok("delete", "-o", "json", "only-frontend"))["removed"] == ["CiliumNetworkPolicy/dev/only-frontend"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["apply"], "name the policies to apply"),
        (["apply", "nowhere.yaml"], "nowhere.yaml"),
        (["apply", "test_shop.yaml"], "test_shop.yaml:1"),
        (["delete", "only-frontent"], "policy `only-frontent` is not in force"),
        (["probe", "frontend -> bakend:8080"], "did you mean `backend`?"),
        (["probe", "frontend backend:8080"], "`->` is missing"),
        (["probe", "frontend -> backend:9"], "`backend` declares no port 9/TCP"),
        (["check", "frontend -> backend:8080"], "it begins with what is expected"),
        (["up", "test_shop.yaml"], "a lab called `lab` is up already"),
        (["up", "test_shop.yaml", "--name", "Lab 2"], "'Lab 2' is no name for a lab"),
        (["up", "test_shop.yaml", "--name", "b", "--idle", "soon"], "--idle 'soon' is no time"),
        (["up", "test_shop.yaml", "--name", "b", "--phase", "denny"], "did you mean `deny`?"),
        (["up", "test_shop.yaml::another", "--name", "b"], "has no case 'another'"),
        (["up", "test_shoop.yaml", "--name", "b"], "there is no case file test_shoop.yaml"),
        (["up", "--name", "b"], "name a case file, or manifests with -f"),
        (["up", "-f", "test_shop.yaml", "--name", "b"], "a Kubernetes object needs `kind`"),
        (["up", "test_shop.yaml", "--name", "b", "--cilium-version", "1.2"], "does not know Cilium '1.2'"),
        (["status", "--name", "labb"], "did you mean `lab`?"),
        (["observe", "--since", "x"], "--since 'x' is no time"),
        (["observe", "--flows-from", "nowhere.json"], "nowhere.json:1: cannot be read: No such file"),
        (["observe", "--flows-from", "test_shop.yaml"], "test_shop.yaml:1: not JSON"),
        (["observe", "--flows-from", "x.json", "--follow"], "nothing to follow"),
    ],
)
def test_mistakes_get_one_clear_error_and_change_nothing(lab: Labs, arguments: list[str], said: str) -> None:
    error = lab.fails(*arguments)
    assert error.startswith("error: ")
    assert said in error
    assert "Traceback" not in error


def test_a_probe_tells_packets_flows_and_model(applied: Labs) -> None:
    done = applied.run("probe", "-o", "json", "dev/intruder -> shop/backend:8080")
    first, second = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 1
    assert {first["verdict"], second["verdict"], first["model"]["verdict"]} == {"deny"}
    assert first["model"]["ingress"]["decision"] == "default-deny"
    assert first["disagreement"] == ""
    assert any(from_json(flow).verdict is FlowVerdict.DROPPED for flow in first["flows"])
    told = applied.run("probe", "intruder -> service/web:80").stdout
    assert "deny: intruder -> service/web:80/TCP: dropped at ingress, default-deny" in told
    assert "flows     " in told
    assert "model     deny; egress: nothing enforced; ingress: default deny, from CiliumNetworkPolicy/shop/only-frontend" in told


def test_expectations_pass_and_fail(applied: Labs) -> None:
    assert applied.ok("check", "deny: intruder -> backend:8080", "allow: frontend -> backend:8080").count("passed ") == 4
    failed = applied.run("check", "allow: intruder -> backend:8080")
    assert failed.returncode == 1
    assert "failed allow: intruder -> backend[0]:8080/TCP: dropped at ingress, default-deny" in failed.stdout


def connect(labs: Labs, place: str) -> int:
    """The exit code: 0 connected, 124 when the time was up. Who is let in gets as long as a busy machine may take."""
    seconds = 20 if place == "frontend" else 0.3
    return labs.run("exec", place, "--", "bash", "-c", f"timeout {seconds} bash -c 'echo > /dev/tcp/web.shop/80'").returncode


def test_flows_of_programs_are_shown_and_chosen(applied: Labs) -> None:
    assert connect(applied, "frontend") == 0
    assert connect(applied, "intruder") == 124, "dropped, so only time ends it"
    shown = applied.ok("observe", "--type", "policy-verdict", "--traffic-direction", "ingress")
    assert "shop/frontend:" in shown
    assert "INGRESS ALLOWED BY only-frontend (CiliumNetworkPolicy) (TCP Flags: SYN)" in shown
    dropped = applied.ok("observe", "--verdict", "dropped", "--last", "2").splitlines()
    assert len(dropped) == 2
    assert all("dev/intruder:" in line and "shop/backend-" in line for line in dropped)
    assert applied.ok("observe", "--from-pod", "frontend", "--verdict", "DROPPED") == ""
    assert applied.ok("observe", "--pod", "dev/intruder", "--to-port", "8080", "--last", "1").count("\n") == 1
    events = [from_json(line) for line in applied.ok("observe", "-o", "json", "-n", "dev").splitlines()]
    assert events
    assert all(isinstance(event, Flow) and event.source.namespace == "dev" for event in events)


def test_saved_flows_are_shown_again_without_a_lab(applied: Labs, tmp_path: Path) -> None:
    connect(applied, "intruder")
    saved = tmp_path / "flows.json"
    saved.write_text(applied.ok("observe", "-o", "json", "--last", "4"))
    assert applied.ok("observe", "--flows-from", str(saved)) == applied.ok("observe", "--last", "4")
    assert applied.ok("observe", "--flows-from", "-", "-o", "json", input=saved.read_text()) == saved.read_text()
    dropped = applied.ok("observe", "--flows-from", str(saved), "--verdict", "DROPPED", "--last", "1")
    assert dropped == applied.ok("observe", "--verdict", "DROPPED", "--last", "1")


def test_following_shows_flows_as_they_come_and_ends_with_ctrl_c(lab: Labs) -> None:
    words = lab.words("observe", "--follow", "--last", "1", "--to-port", "8080", "--type", "trace")
    lab.ok("probe", "frontend -> backend:8080")
    with subprocess.Popen(words, env=lab.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        assert "shop/frontend:" in following.stdout.readline(), "what has been, so that it follows by now"
        lab.ok("probe", "intruder -> backend:8080")
        assert "dev/intruder:" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        assert following.wait(20) == 0
        assert following.stderr.read() == ""


@pytest.mark.skipif(HUBBLE is None, reason="no `hubble` client on PATH or in build/tools; `make tools` builds it (needs Go)")
def test_the_real_client_prints_the_same_lines(applied: Labs) -> None:
    connect(applied, "frontend")
    connect(applied, "intruder")
    server = json.loads(applied.ok("status", "-o", "json"))["flows"]
    assert HUBBLE
    real = subprocess.run(
        [HUBBLE, "observe", "--server", server, "--last", "30", "--print-policy-names"],
        env={"PATH": applied.environment["PATH"], "HOME": str(applied.folder), "XDG_CONFIG_HOME": str(applied.folder)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    # What stands in the last parentheses the server may write into a field of its own.
    ours = [line.rpartition(" (")[0] for line in applied.ok("observe", "--last", "30").splitlines()]
    assert len(ours) > 4
    assert ours == [line.rpartition(" (")[0] for line in real.splitlines()]


def test_a_lab_of_manifests_runs_workloads_services_and_policies(lab: Labs) -> None:
    folder = lab.folder / "manifests"
    folder.mkdir()
    (folder / "web.yaml").write_text(
        """
apiVersion: v1
kind: Namespace
metadata: {name: prod, labels: {env: prod}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: prod}
spec:
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: nginx, ports: [{containerPort: 8080, name: http}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: client, image: busybox}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: prod}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut, namespace: prod}
spec: {podSelector: {}, policyTypes: [Ingress]}
"""
    )
    said = lab.ok("up", "-f", str(folder), "--name", "manifests")
    try:
        assert "NetworkPolicy/prod/shut selects prod/web" in said
        assert "left out, for it has no part in policy: ConfigMap" in said
        assert lab.run("probe", "--name", "manifests", "default/client -> prod/web:8080").returncode == 1
        lab.ok("delete", "--name", "manifests", "shut")
        assert "allow: client -> service/prod/web:80/TCP" in lab.ok("probe", "--name", "manifests", "client -> service/prod/web:80")
        assert lab.fails("status").startswith("error: 2 labs are up: say which")
        assert [json.loads(line)["name"] for line in lab.ok("list", "-o", "json").splitlines()] == ["lab", "manifests"]
    finally:
        lab.ok("down", "--name", "manifests")


def test_recorded_flows_tried_on_their_own_policies_change_nothing(applied: Labs, tmp_path: Path) -> None:
    """Packets, flows and model agree: what the lab dropped and forwarded under these policies, the model would too."""
    lines = {*applied.ok("observe", "-o", "json", "--last", "4096").splitlines()}
    assert connect(applied, "frontend") == 0
    assert connect(applied, "intruder") == 124
    applied.run("probe", "any -> backend:8080")
    saved = tmp_path / "flows.json"
    saved.write_text("\n".join(line for line in applied.ok("observe", "-o", "json", "--last", "4096").splitlines() if line not in lines))
    tried = CliRunner().invoke(
        main, ["predict", policy(applied, ONLY_FRONTEND.replace("metadata: {", "metadata: {namespace: shop, ")), "--flows-from", str(saved)]
    )
    assert tried.output.endswith("recorded connections: none would be decided otherwise\n"), tried.output
    other = ONLY_FRONTEND.replace("app: frontend", "app: intruder").replace("metadata: {", "metadata: {namespace: shop, ")
    tried = CliRunner().invoke(main, ["predict", policy(applied, other), "--flows-from", str(saved)])
    assert tried.exit_code == 1
    assert "deny: shop/frontend -> shop/backend-" in tried.output


def test_a_question_that_breaks_is_answered_and_the_lab_goes_on(lab: Labs) -> None:
    with Caller(LabFolder(lab.folder / "harness" / "lab")) as caller:
        with pytest.raises(ClusterError, match="the lab could not answer: TypeError") as caught:
            caller.call("probe", nonsense=1)
        assert "lab/log" in str(caught.value.hint)
        with pytest.raises(UsageError, match="cannot be asked for 'explode'"):
            caller.call("explode")
        assert caller.call("about")["name"] == "lab"


def test_http_rules_hold_for_what_programs_send(lab: Labs) -> None:
    http = ONLY_FRONTEND.replace("only-frontend", "http").replace("protocol: TCP}]}", "protocol: TCP}], rules: {http: [{path: /api/.*}]}}")
    done = lab.run("apply", policy(lab, http))
    if "requires l7-http" in done.stderr:
        pytest.skip(done.stderr)
    code = (
        "import urllib.request as u, urllib.error as e\n"
        "def status(path):\n"
        "    try: return u.urlopen('http://web' + path, timeout=10).status\n"
        "    except e.HTTPError as error: return error.code\n"
        "print(status('/api/v1'), status('/admin'))"
    )
    assert lab.ok("exec", "frontend", "--", sys.executable, "-c", code) == "200 403\n"
    assert "http-request DROPPED (HTTP/1.1 GET http://web/admin)" in lab.ok("observe", "--type", "l7")
    assert (
        "deny: frontend -> backend[0]:8080/TCP GET /admin: dropped at ingress, l7"
        in lab.run("probe", "frontend -> backend:8080 GET /admin").stdout
    )
    lab.ok("delete", "http")
