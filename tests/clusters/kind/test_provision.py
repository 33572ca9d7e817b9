"""Making and removing a cluster, against what kind and docker are known to say: whatever happens, nothing half made is left, and nothing of
anybody else's is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace

from harness.clusters.kind import program
from harness.clusters.kind.config import MADE_BY_LABEL
from harness.clusters.kind.provision import Provisioner
from harness.clusters.kind.record import Record, Records
from harness.clusters.kind.wanted import Wanted
from harness.errors import ClusterError, ClusterTakenError, ProgramError, ProgramMissingError, ProvisioningError

WANTED = Wanted("shop")
NODES = (
    "4c01db0b339c6a2d4fd1c1a8fcbcd7c1fa1c93a9b3d6d5d9a7f8f0ea0cbe1c11",
    "71a1f2c6b8e94d5fa0d1e3b1c0d6f7a5e9c8b7d4a3f2e1d0c9b8a7f6e5d4c333",
    "d7886598dbe2a3b6f7d39e9c52a2a2fa2a8e6ed4b0e0f0a2bb66a7f3c3a9be22",
)
OURS = Record("shop", "1a2b", stays=True, ready=True, cilium="1.19.7", profile="default", created=1.0, containers=NODES)


@pytest.fixture
def provisioner(some_helm):  # noqa: ARG001 -- a fixture that is there is all of it
    lines: list[str] = []
    return Provisioner(Records(), lines.append, within=2.0)


def up(provisioner, wanted=WANTED, *, change=True):
    return provisioner.up(wanted, stays=True, change=change)


# What is missing


@pytest.mark.parametrize(("missing", "url"), [("kind", "kind.sigs.k8s.io"), ("docker", "docs.docker.com"), ("helm", "helm.sh")])
def test_a_program_that_is_missing_is_named_with_where_to_get_it(missing, url, provisioner, contract, monkeypatch):
    contract.play(*(["docker-answers"] if missing == "helm" else []))
    programs = contract.folder.parent / "bin"
    (programs / missing).unlink()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin" if missing != "docker" else str(programs))
    with pytest.raises(ProgramMissingError, match=f"`{missing}` is not installed") as raised:
        up(provisioner)
    assert url in str(raised.value)


@pytest.mark.parametrize(
    ("state", "said", "todo"),
    [
        ("docker-is-not-running", "Is the docker daemon running", "systemctl start"),
        ("docker-is-not-allowed", "permission denied", "usermod"),
    ],
)
def test_a_docker_that_does_not_answer_is_told_as_docker_tells_it_with_what_to_do(state, said, todo, provisioner, contract):
    contract.play(state)
    with pytest.raises(ClusterError, match=said) as raised:
        up(provisioner)
    assert todo in str(raised.value)
    assert provisioner.records.names() == []


# Whose it is


@pytest.mark.parametrize("record", [None, OURS], ids=["no record", "a record of other containers"])
@pytest.mark.parametrize("act", [up, lambda provisioner: provisioner.down("shop")], ids=["up", "down"])
def test_a_cluster_that_the_harness_did_not_make_is_left_alone(record, act, provisioner, contract):
    if record is not None:
        provisioner.records.write(record)
    contract.play("docker-answers", "other-nodes")
    with pytest.raises(ClusterTakenError, match="the harness did not make it") as raised:
        act(provisioner)
    assert "--kind-name" in str(raised.value)
    assert contract.played


def test_what_a_killed_run_left_half_made_is_removed_before_it_is_made_anew(provisioner, contract):
    provisioner.records.write(Record("shop", "1a2b", stays=False))
    contract.play("docker-answers", "three-nodes", "no-outside", "delete", "create-fails", "export-logs", "no-outside", "delete")
    with pytest.raises(ProvisioningError):
        up(provisioner)
    assert contract.played


def test_a_cluster_removed_by_hand_is_made_anew(provisioner, contract):
    provisioner.records.write(OURS)
    contract.play("docker-answers", "no-nodes", "create-fails", "export-logs", "no-outside", "delete")
    with pytest.raises(ProvisioningError):
        up(provisioner)
    assert contract.played


def test_another_version_than_a_run_asks_for_is_told_and_nothing_is_changed(provisioner, contract):
    provisioner.records.write(OURS)
    contract.play("docker-answers", "three-nodes")
    with pytest.raises(ClusterTakenError, match=r"has Cilium 1\.19\.7 with profile default") as raised:
        up(provisioner, replace(WANTED, cilium="1.20"), change=False)
    assert "harness cluster up" in str(raised.value)
    assert provisioner.records.read("shop") == OURS


def test_a_profile_that_needs_other_nodes_asks_for_another_cluster(provisioner, contract):
    provisioner.records.write(OURS)
    contract.play("docker-answers", "three-nodes")
    with pytest.raises(ClusterTakenError, match="profile dual-stack needs other nodes"):
        up(provisioner, replace(WANTED, profile="dual-stack"))


def test_stopped_nodes_are_told(provisioner, contract):
    provisioner.records.write(OURS)
    contract.play("docker-answers", "three-nodes", "nodes-are-stopped")
    with pytest.raises(ClusterError, match="are not running"):
        up(provisioner)


# What goes wrong


def test_a_cluster_that_cannot_be_made_is_removed_and_what_was_seen_is_kept(provisioner, contract):
    contract.play("docker-answers", "no-nodes", "create-fails", "export-logs", "no-outside", "delete")
    with pytest.raises(ProvisioningError, match="manifest unknown") as raised:
        up(provisioner)
    bundle = Path(str(raised.value).rpartition(" ")[2])
    assert 'failed to pull image "kindest/node:v9.9.9"' in (bundle / "error.txt").read_text()
    assert {path.name for path in bundle.iterdir()} >= {"error.txt", "values.yaml", "node-logs"}
    assert provisioner.records.names() == []
    assert contract.played


def test_an_api_server_that_does_not_answer_ends_it_too(provisioner, contract):
    contract.play("docker-answers", "no-nodes", "create", "three-nodes", "export-logs", "no-outside", "delete")
    with pytest.raises(ProvisioningError, match="does not answer"):
        up(provisioner)
    assert contract.played


def test_a_cluster_whose_removal_fails_is_remembered_as_half_made(provisioner, contract):
    contract.play("docker-answers", "no-nodes", "create-fails", "export-logs", "no-outside", "delete-fails")
    with pytest.raises(ProvisioningError, match="manifest unknown") as raised:
        up(provisioner)
    assert "failed to delete cluster" in str(raised.value)
    assert "harness cluster down --name shop" in str(raised.value)
    record = provisioner.records.read("shop")
    assert record is not None
    assert not record.ready


@pytest.mark.usefixtures("some_helm")
def test_ctrl_c_while_it_is_made_removes_it(contract):
    contract.play("docker-answers", "no-nodes", "create-lasts", "no-outside", "delete")
    with subprocess.Popen(
        [sys.executable, "-m", "harness", "cluster", "up", "--name", "shop"], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        until = time.monotonic() + 30
        while not (contract.folder / "waiting").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode not in (0, None)
    assert "Traceback" not in said
    assert contract.played
    assert Records().names() == []


def test_a_program_that_takes_too_long_is_ended(contract):
    contract.play("create-lasts")
    with pytest.raises(ProgramError, match="`kind create cluster` took longer than 1 s"):
        program.KIND.run(*["create", "cluster", "--name", "shop", "--kubeconfig", "x", "--config", "-", "--retain"], within=1.0, text="")


# What kind is told


def test_the_nodes_bear_who_made_them_and_the_profile_decides_what_is_below_cilium(provisioner, contract):
    contract.play("docker-answers", "no-nodes", "create-fails", "export-logs", "no-outside", "delete")
    with pytest.raises(ProvisioningError):
        up(provisioner, replace(WANTED, profile="kube-proxy-replacement", kubernetes="kindest/node:v9.9.9"))
    config = yaml.safe_load(contract.sent("kind", "create"))
    assert config["networking"] == {
        "disableDefaultCNI": True,
        "kubeProxyMode": "none",
        "ipFamily": "ipv4",
        "podSubnet": "10.244.0.0/16",
        "serviceSubnet": "10.96.0.0/16",
    }
    assert [node["role"] for node in config["nodes"]] == ["control-plane", "worker", "worker"]
    assert {node["image"] for node in config["nodes"]} == {"kindest/node:v9.9.9"}
    assert all(len(node["labels"][MADE_BY_LABEL]) == 8 for node in config["nodes"])


# Removing it


def test_down_removes_ours_and_forgets_it(provisioner, contract):
    provisioner.records.write(OURS)
    contract.play("docker-answers", "three-nodes", "no-outside", "delete")
    assert provisioner.down("shop")
    assert contract.played
    assert provisioner.records.names() == []


def test_down_of_nothing_says_so(provisioner, contract):
    contract.play("docker-answers", "no-nodes")
    assert not provisioner.down("shop")


@pytest.mark.parametrize(
    ("record", "script", "state"),
    [
        (None, ["no-nodes"], "absent"),
        (None, ["other-nodes"], "not ours"),
        (OURS, ["other-nodes"], "not ours"),
        (Record("shop", "1", stays=True), ["three-nodes"], "half made"),
        (OURS, ["three-nodes", "nodes-are-stopped"], "stopped"),
        (OURS, ["three-nodes", "nodes-run"], "not ready"),
    ],
)
def test_status_tells_what_it_finds(record, script, state, provisioner, contract):
    if record is not None:
        provisioner.records.write(record)
        provisioner.records.kubeconfig("shop").write_text((contract.folder / "kubeconfig").read_text())
    contract.play("docker-answers", *script)
    assert provisioner.status("shop").state == state
