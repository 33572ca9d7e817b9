"""Installing Cilium with the real Helm on a real cluster, with a small chart that stands for Cilium's in a namespace of its own; kind and docker
by their contract."""

from __future__ import annotations

import copy
import functools
import http.server
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace

from harness.clusters.kind.cluster import KindCluster
from harness.clusters.kind.provision import Provisioner
from harness.clusters.kind.record import Records
from harness.clusters.kind.wanted import Wanted
from harness.clusters.kubernetes.client import Api
from harness.clusters.kubernetes.cluster import KubernetesOptions
from harness.errors import ClusterError, ProvisioningError

CONTEXT = os.environ.get("HARNESS_TEST_KUBE_CONTEXT", "")
pytestmark = pytest.mark.skipif(not CONTEXT, reason="needs a cluster: make test-kubernetes CONTEXT=...")
CHART = Path(__file__).parent / "chart"
NEW = ["docker-answers", "no-nodes", "create", "three-nodes"]
AGAIN = ["docker-answers", "three-nodes"]


@pytest.fixture
def api():
    return Api.connect(CONTEXT)


@pytest.fixture
def space(api) -> Iterator[str]:
    """A namespace of the test's own, gone afterwards with all that is in it."""
    name = f"policy-harness-helm-{secrets.token_hex(3)}"
    api.core.create_namespace({"metadata": {"name": name}})
    yield name
    api.core.delete_namespace(name, _request_timeout=30)


@pytest.fixture
def provisioner(contract, helm, monkeypatch):
    """What kind would write leads to the cluster that there is, under the name that kind would give it."""
    if not shutil.which("helm"):
        monkeypatch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{helm.parent}")
    config = yaml.safe_load(Path(os.environ.get("KUBECONFIG") or "~/.kube/config").expanduser().read_text())
    context = copy.deepcopy(next(each for each in config["contexts"] if each["name"] == CONTEXT))
    context["name"] = "kind-shop"
    (contract.folder / "kubeconfig").write_text(yaml.safe_dump({**config, "contexts": [context], "current-context": "kind-shop"}))
    lines: list[str] = []
    return Provisioner(Records(), lines.append, within=60.0)


def wanted(space: str, chart: Path = CHART, profile: str = "") -> Wanted:
    return Wanted("shop", chart=str(chart), profile=profile, namespace=space)


def charted(tmp_path: Path, version: str, **values: str) -> Path:
    """The chart with another version and other defaults."""
    copied = shutil.copytree(CHART, tmp_path / f"cilium-{version}")
    (copied / "Chart.yaml").write_text((CHART / "Chart.yaml").read_text().replace("1.19.7", version))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    (copied / "values.yaml").write_text(yaml.safe_dump({**defaults, **values}))
    return copied


BROKEN = {"image": "nobody/has-this:1", "pull": "Never"}


def config_of(api: Api, space: str) -> dict[str, str]:
    return api.core.read_namespaced_config_map("cilium-config", space).data


def test_a_profile_arrives_and_the_next_version_is_an_upgrade(provisioner, contract, api, space, tmp_path):
    contract.play(*NEW)
    record = provisioner.up(wanted(space, profile="wireguard"), stays=True, change=True)
    assert (record.cilium, record.profile, record.ready, len(record.containers)) == ("1.19.7", "wireguard", True, 3)
    assert config_of(api, space) == {"enable-wireguard": "true", "version": "1.19.7"}
    assert any("waiting for its agents and Relay: done in" in line for line in provisioner.tell.__self__)

    contract.play(*AGAIN)
    newer = wanted(space, charted(tmp_path, "1.20.2"), "default")
    record = provisioner.up(newer, stays=True, change=True)
    assert (record.cilium, record.profile) == ("1.20.2", "default")
    assert config_of(api, space) == {"enable-wireguard": "false", "version": "1.20.2"}
    assert provisioner.release(newer).deployed().revision == 2
    assert contract.played

    # As it is wanted: used again, nothing installed.
    contract.play(*AGAIN, "nodes-run")
    assert provisioner.up(newer, stays=False, change=False) == record
    assert provisioner.release(newer).deployed().revision == 2


def test_what_does_not_become_ready_is_named_bundled_and_removed(provisioner, contract, space, tmp_path):
    broken = charted(tmp_path, "1.19.7", **BROKEN)
    contract.play(*NEW, "export-logs", "no-outside", "delete")
    with pytest.raises(ProvisioningError, match=r"daemonset .*/cilium: 0 of \d+ ready") as raised:
        replace(provisioner, within=5.0).up(wanted(space, broken), stays=True, change=True)
    assert "nobody/has-this:1" in str(raised.value)
    bundle = Path(str(raised.value).rpartition(" ")[2])
    found = {str(path.relative_to(bundle)) for path in bundle.rglob("*") if path.is_file()}
    assert found >= {"error.txt", "values.yaml", "pods.yaml", "nodes.yaml", "events.txt"}
    assert any(name.startswith(f"logs/{space}/cilium-") for name in found)
    assert "Failed" in (bundle / "events.txt").read_text()
    assert yaml.safe_load((bundle / "values.yaml").read_text())["hubble"]["relay"]["enabled"] is True
    assert contract.played
    assert provisioner.records.names() == []


def test_an_upgrade_that_fails_goes_back_to_what_was(provisioner, contract, api, space, tmp_path):
    contract.play(*NEW)
    provisioner.up(wanted(space), stays=True, change=True)
    broken = charted(tmp_path, "1.20.2", **BROKEN)
    contract.play(*AGAIN, "export-logs")
    with pytest.raises(ProvisioningError, match=r"it is Cilium 1\.19\.7 again"):
        replace(provisioner, within=5.0).up(wanted(space, broken), stays=True, change=True)
    assert config_of(api, space)["version"] == "1.19.7"
    assert provisioner.records.read("shop").cilium == "1.19.7"
    assert contract.played


def test_a_chart_that_refuses_the_values_says_so_in_its_own_words(provisioner, contract, space, tmp_path):
    contract.play(*NEW, "export-logs", "no-outside", "delete")
    with pytest.raises(ProvisioningError, match="the chart refuses these values"):
        provisioner.up(wanted(space, charted(tmp_path, "1.19.7", refuse="yes")), stays=True, change=True)
    assert contract.played


def test_a_version_that_does_not_exist_says_so_and_where_to_look(provisioner, contract, space, tmp_path, monkeypatch):
    repository = tmp_path / "repository"
    subprocess.run(["helm", "package", str(CHART), "-d", str(repository)], check=True, capture_output=True)
    serve = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(repository))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        subprocess.run(["helm", "repo", "index", str(repository), "--url", address], check=True, capture_output=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("harness.clusters.kind.wanted.REPOSITORY", address)
        monkeypatch.setenv("HELM_CACHE_HOME", str(tmp_path / "helm"))
        try:
            contract.play(*NEW[:2])
            with pytest.raises(ClusterError, match=r"there is no chart cilium 1\.19\.99 of") as raised:
                provisioner.up(Wanted("shop", cilium="1.19.99", namespace=space), stays=True, change=True)
            assert "helm search repo" in str(raised.value)
            assert contract.played

            contract.play(*NEW)
            assert provisioner.up(Wanted("shop", cilium="1.19", namespace=space), stays=True, change=True).cilium == "1.19.7"
        finally:
            server.shutdown()


def test_a_repository_that_cannot_be_reached_says_what_to_do_without(provisioner, contract, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.clusters.kind.wanted.REPOSITORY", "http://127.0.0.1:9")
    monkeypatch.setenv("HELM_CACHE_HOME", str(tmp_path / "helm"))
    contract.play(*NEW[:2])
    with pytest.raises(ClusterError, match="cannot be fetched") as raised:
        provisioner.up(Wanted("shop", cilium="1.19.7"), stays=True, change=True)
    assert "--cilium-chart" in str(raised.value)


def test_a_run_opens_it_as_any_cluster_and_the_last_one_out_removes_it(provisioner, contract, space):
    contract.play(*NEW)
    options = KubernetesOptions(require_flows=True)
    first = KindCluster(wanted(space), options, provisioner.tell, records=provisioner.records)
    contract.play(*AGAIN, "nodes-run")
    second = KindCluster(wanted(space), options, provisioner.tell, records=provisioner.records)
    assert second.flows()
    assert {"nodes-2", "clusterwide", "host-endpoints"} <= second.capabilities.features
    contract.play()
    first.close()
    assert not contract.calls
    contract.play(*AGAIN, "no-outside", "delete")
    second.close()
    second.close()
    assert contract.played
    assert provisioner.records.names() == []


def test_a_run_does_not_remove_what_cluster_up_made(provisioner, contract, space):
    contract.play(*NEW)
    provisioner.up(wanted(space), stays=True, change=True)
    contract.play(*AGAIN, "nodes-run")
    KindCluster(wanted(space), KubernetesOptions(), provisioner.tell, records=provisioner.records).close()
    assert contract.played
    assert provisioner.records.read("shop").ready
