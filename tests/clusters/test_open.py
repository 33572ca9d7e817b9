"""Opening a place to run by its name."""

from __future__ import annotations

import pytest

from harness.clusters.open import ClusterOptions, Hubble, default_hubble, default_timeout, open_cluster
from harness.errors import ClusterError, ProgramMissingError, UsageError


def test_memory_opens_anywhere_and_claims_the_version_asked_for():
    cluster = open_cluster("memory", ClusterOptions(cilium="1.19.3"))
    assert (cluster.name, cluster.simulated, cluster.capabilities.cilium) == ("memory", True, "1.19.3")
    cluster.close()


def test_an_unknown_name_gets_the_one_that_was_meant():
    with pytest.raises(UsageError, match="did you mean `memory`"):
        open_cluster("memroy")


def test_an_unknown_version_is_refused_before_anything_opens():
    with pytest.raises(UsageError, match=r"does not know Cilium '1.2'"):
        open_cluster("memory", ClusterOptions(cilium="1.2"))


def test_what_kind_needs_and_is_not_installed_is_named_with_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(ProgramMissingError, match="`helm` is not installed") as raised:
        open_cluster("kind")
    assert "https://helm.sh/docs/intro/install/" in str(raised.value)


def test_an_existing_cluster_needs_a_kubeconfig(monkeypatch, tmp_path):
    empty = tmp_path / "config"
    empty.write_text("")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(empty))
    with pytest.raises(ClusterError, match="no usable kubeconfig") as raised:
        open_cluster("existing")
    assert "KUBECONFIG" in str(raised.value)


def test_defaults_depend_on_where_it_runs():
    assert [default_timeout(name) for name in ("netns", "memory", "kind", "existing")] == [1.0, 1.0, 3.0, 3.0]
    assert default_hubble("existing") is Hubble.AUTO
    assert default_hubble("netns") is default_hubble("kind") is Hubble.REQUIRE
