"""The profiles of Cilium's values, held to what its chart knows (values-VERSION.json: defaults of the parts that profiles touch, by dotted path,
from the chart of that version)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.clusters.kind.profile import Profile
from harness.errors import UsageError

ROOT = Path(__file__).parents[2]
PROFILES = sorted(path.stem for path in (ROOT / "ci" / "profiles").glob("*.yaml"))
CHARTS = {path.stem.removeprefix("values-"): json.loads(path.read_text()) for path in Path(__file__).parent.glob("values-*.json")}
BASE = {"hubble": {"relay": {"enabled": True}}, "ipam": {"mode": "kubernetes"}, "operator": {"replicas": 1}, "sctp": {"enabled": True}}


def leaves(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


@pytest.mark.parametrize("version", sorted(CHARTS))
@pytest.mark.parametrize("name", PROFILES)
def test_the_chart_has_every_value_that_a_profile_sets_and_of_its_type(name, version):
    known = {**CHARTS[version], "kubeProxyReplacement": False}  # the chart's default is text there, and its template takes both
    for path, value in leaves(Profile.find(name).values):
        assert path in known, path
        assert type(value) is type(known[path]), path


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_has_what_the_harness_needs_and_more_than_the_default_has(name):
    values = dict(leaves(Profile.find(name).values))
    assert dict(leaves(BASE)).items() <= values.items()
    assert (name == "default") == (values == dict(leaves(BASE)))


@pytest.mark.parametrize("name", PROFILES)
def test_what_the_cluster_below_must_be_follows_from_the_values(name):
    profile = Profile.find(name)
    assert profile.has_relay
    assert profile.dual_stack == (name == "dual-stack")
    assert profile.replaces_kube_proxy == (name == "kube-proxy-replacement")
    assert profile.needs_ipsec_keys == ("cilium-ipsec-keys" if name == "ipsec" else "")
    told = ["k8sServiceHost=shop-control-plane", "k8sServicePort=6443"] if name == "kube-proxy-replacement" else []
    assert list(profile.settings("shop")) == told


def test_a_misspelt_profile_is_answered_with_the_one_that_is_meant():
    with pytest.raises(UsageError, match="unknown profile 'wiregaurd'") as raised:
        Profile.find("wiregaurd")
    assert "did you mean `wireguard`?" in str(raised.value)


def test_a_profile_may_be_a_file_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("ipv6: {enabled: true}")
    profile = Profile.find(str(tmp_path / "mine.yaml"))
    assert (profile.name, profile.dual_stack, profile.has_relay) == ("mine", True, False)


@pytest.mark.parametrize(("text", "said"), [("- a\n", "holds no Helm values"), ("a: [", "is no YAML"), (None, "cannot be read")])
def test_a_file_that_is_no_profile_says_so(text, said, tmp_path):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=said):
        Profile.find(str(path))


@pytest.mark.parametrize("name", PROFILES)
def test_the_real_chart_renders_with_it(name):
    charts = [each for each in os.environ.get("HARNESS_TEST_CILIUM_CHARTS", "").split(os.pathsep) if each]
    if not (charts and shutil.which("helm")):
        pytest.skip("needs helm, and HARNESS_TEST_CILIUM_CHARTS naming folders of Cilium's chart")
    wanted = {
        "wireguard": {"enable-wireguard": "true"},
        "ipsec": {"enable-ipsec": "true"},
        "host-firewall": {"enable-host-firewall": "true"},
        "kube-proxy-replacement": {"kube-proxy-replacement": "true"},
        "mutual-auth": {"mesh-auth-enabled": "true", "mesh-auth-mutual-enabled": "true"},
        "dual-stack": {"enable-ipv6": "true", "enable-ipv4": "true"},
        "default": {"enable-ipv6": "false", "enable-sctp": "true", "ipam": "kubernetes"},
    }[name]
    profile = Profile.find(name)
    more = [word for each in profile.settings("shop") for word in ("--set", each)]
    for chart in charts:
        command = ["helm", "template", "cilium", chart, "-n", "kube-system", "--kube-version", "1.34.0", "-f", str(profile.path), *more]
        documents = list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        found = {(each["kind"], each["metadata"]["name"]): each for each in documents if each}
        assert ("Deployment", "hubble-relay") in found
        assert wanted.items() <= found["ConfigMap", "cilium-config"]["data"].items()
