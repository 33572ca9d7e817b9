"""The configuration that kind is given: the project's kind-config.yaml with what a profile, and the harness, need changed. Makes nothing."""

from __future__ import annotations

import copy
import ipaddress
from pathlib import Path
from typing import Any

import yaml

from harness.clusters.kind.profile import Profile, checkout_file
from harness.errors import UsageError

MADE_BY_LABEL = "policy-harness/made-by"
"""On each node: the id under which this machine's record has the cluster."""
_API = "kind.x-k8s.io/v1alpha4"
_PLAIN: Any = {
    "kind": "Cluster",
    "apiVersion": _API,
    "networking": {"podSubnet": "10.244.0.0/16,fd00:10:244::/56", "serviceSubnet": "10.96.0.0/16,fd00:10:96::/112"},
    "nodes": [{"role": "control-plane"}, {"role": "worker"}, {"role": "worker"}],
}
"""Where the package was installed without the project around it."""


def kind_config(path: str, name: str, profile: Profile, made_by: str, image: str = "") -> str:
    """YAML for `kind create cluster --config -`. Raises `UsageError` for a file that is no kind configuration."""
    config = _read(path)
    config["name"] = name
    networking = config.setdefault("networking", {})
    networking["disableDefaultCNI"] = True
    if profile.replaces_kube_proxy:
        networking["kubeProxyMode"] = "none"
    networking["ipFamily"] = "dual" if profile.dual_stack else "ipv4"
    for key in ("podSubnet", "serviceSubnet"):
        if key in networking:
            networking[key] = _families(str(networking[key]), dual=profile.dual_stack)
    for node in config.setdefault("nodes", copy.deepcopy(_PLAIN["nodes"])):
        node["labels"] = {**(node.get("labels") or {}), MADE_BY_LABEL: made_by}
        if image:
            node["image"] = image
    return str(yaml.safe_dump(config, sort_keys=False))


def _families(subnets: str, *, dual: bool) -> str:
    """Of a pair of networks, those that a cluster with one family has."""
    each = [text.strip() for text in subnets.split(",")]
    return ",".join(text for text in each if dual or ipaddress.ip_network(text).version == 4)


def _read(path: str) -> Any:
    file = Path(path) if path else checkout_file("kind-config.yaml")
    if file is None:
        return copy.deepcopy(_PLAIN)
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the kind configuration {file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"the kind configuration {file} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict) or config.get("kind") != "Cluster" or config.get("apiVersion") != _API:
        raise UsageError(f"{file} is no kind configuration", hint=f"it begins with `kind: Cluster` and `apiVersion: {_API}`")
    return config
