"""The plugin's options: where each is declared, and what is in force. Command line beats environment beats ini beats default."""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from harness.errors import HarnessError, UsageError


class Option(Struct, frozen=True):
    """One option: `--NAME`, the ini key `harness_NAME` and the environment variable `HARNESS_NAME`."""

    name: str
    metavar: str
    help: str
    several: bool = False
    """May be given more than once on the command line; elsewhere with commas."""

    @property
    def dest(self) -> str:
        return f"harness_{self.name.replace('-', '_')}"

    @property
    def variable(self) -> str:
        return self.dest.upper()


CASE_SUFFIXES = (".yaml", ".yml")
OPTIONS = (
    Option(
        "cluster", "NAME", "where the cases run: netns (a lab on this machine, the default), memory (the policy model only), kind, existing"
    ),
    Option(
        "cilium-version",
        "VERSION",
        "the Cilium version that netns and memory behave as, and that kind installs: 1.19 (its newest patch) or 1.19.7 (default 1.20)",
    ),
    Option("hubble", "require|auto|off", "flows: require them (default), decide once at start, or judge by packets only"),
    Option("timeout", "SECONDS", "how long a probe without a flow waits for its answer (default 1 in the lab, 3 on a cluster)"),
    Option("hubble-listen", "HOST:PORT", "serve the lab's flows there too, for `hubble observe --server HOST:PORT`"),
    Option("kube-context", "NAME", "existing: the kubeconfig context (default: the current one)"),
    Option("image", "IMAGE", "existing: the image of the test pods, any with python3 (default python:3.13-alpine)"),
    Option("image-pull-policy", "POLICY", "existing: Always, IfNotPresent (default) or Never"),
    Option(
        "image-pull-secret",
        "[NAMESPACE/]NAME",
        "existing: pull the image with it; one with a namespace is copied to the run's",
        several=True,
    ),
    Option("toleration", "KEY[=VALUE][:EFFECT]", "existing: put test pods on nodes with this taint too", several=True),
    Option("node-selector", "KEY=VALUE", "existing: put test pods only on nodes with this label", several=True),
    Option("profile", "NAME|FILE", "kind: the Helm values of Cilium, a file or one of ci/profiles: default, wireguard, dual-stack, ..."),
    Option("cilium-chart", "PATH|REF", "kind: a chart's folder, .tgz or oci:// reference instead of helm.cilium.io's"),
    Option("kind-name", "NAME", "kind: the cluster's name (default cilium-policy-harness)"),
    Option("kind-image", "IMAGE", "kind: the node image, such as kindest/node:v1.35.8 (default: kind's own)"),
    Option("externals", "FILE", "existing: addresses and TCP ports of what cases call external, for which you answer (YAML)"),
)
FLAGS = (
    Option("allow-host", "", "existing: host-network pods are allowed, in a privileged namespace of their own"),
    Option("allow-clusterwide", "", "existing: clusterwide policies are allowed, renamed and scoped to the pods of the run"),
)
"""What a cluster that is not ours must be allowed explicitly: on the command line only."""


class RunOptions(Struct, frozen=True):
    """What is in force. `None` and '' mean: the cluster's default. `repeat` are the words that set the same on a command line."""

    cluster: str
    cilium: str
    cilium_asked: bool
    hubble: str | None
    timeout: float | None
    hubble_listen: str
    keep: bool
    kube_context: str | None
    image: str
    image_pull_policy: str
    image_pull_secret: str
    toleration: str
    node_selector: str
    externals: str
    profile: str
    cilium_chart: str
    kind_name: str
    kind_image: str
    allow_host: bool
    allow_clusterwide: bool
    repeat: tuple[str, ...]

    def command(self, nodeid: str) -> str:
        """The command that runs one test again as it ran."""
        return shlex.join(["pytest", nodeid, *self.repeat])


def as_typed(config: pytest.Config, nodeid: str) -> str:
    """The node id as a user types it: its path from the directory in which pytest was called."""
    path, separator, rest = nodeid.partition("::")
    return os.path.relpath(config.rootpath / path, config.invocation_params.dir) + separator + rest


def is_phase(nodeid: str) -> bool:
    """Whether it is `FILE.yaml::CASE::PHASE`."""
    file, _, rest = nodeid.partition("::")
    return file.endswith(CASE_SUFFIXES) and "::" in rest


def declare(parser: pytest.Parser) -> None:
    """Add the options. Where another plugin owns `--timeout` (pytest-timeout: seconds for a whole test), ours is only `--probe-timeout`."""
    group = parser.getgroup("harness", "network policy cases (test_*.yaml)")
    for option in OPTIONS:
        names = [f"--{option.name}"]
        if option.name == "timeout":
            taken = importlib.util.find_spec("pytest_timeout") is not None
            names = ["--probe-timeout"] if taken else ["--timeout", "--probe-timeout"]
        action = "append" if option.several else "store"
        group.addoption(*names, dest=option.dest, action=action, default=None, metavar=option.metavar, help=option.help)
        parser.addini(option.dest, f"{option.help} (also {option.variable})", default="")
    for flag in FLAGS:
        group.addoption(f"--{flag.name}", dest=flag.dest, action="store_true", help=flag.help)
    group.addoption(
        "--keep", dest="harness_keep", action="store_true", help="after the last test keep its lab for a look, and say how to enter it"
    )
    group.addoption(
        "--harness-jsonl",
        dest="harness_jsonl",
        metavar="FILE",
        default=None,
        help="write every event of the run to FILE, one JSON object a line",
    )
    group.addoption("--harness-html", dest="harness_html", metavar="FILE", default=None, help="write a self-contained HTML report to FILE")


def resolve(config: pytest.Config, environment: Mapping[str, str] = os.environ) -> RunOptions:
    """What is in force. Raises `UsageError` naming the place that a wrong value came from."""
    values: dict[str, Any] = {}
    repeat: list[str] = []
    for option in OPTIONS:
        text, place = _given(option, config, environment)
        if not text:
            continue
        try:
            if option.name == "externals":
                text = str((config.rootpath if place.startswith("ini") else config.invocation_params.dir) / text)
            values[option.name] = _CHECKS[option.name](text)
        except HarnessError as error:
            raise UsageError(f"{place}: {error.message}", hint=error.hint, location=error.location) from None
        if not place.startswith("ini"):
            repeat.append(f"--{'probe-timeout' if option.name == 'timeout' else option.name}={text}")
    for name in ("jsonl", "html"):
        if path := config.getoption(f"harness_{name}"):
            _check_writable(f"--harness-{name}", path, config.invocation_params.dir / path)
    allowed = {flag.name for flag in FLAGS if config.getoption(flag.dest)}
    repeat += [f"--{flag.name}" for flag in FLAGS if flag.name in allowed]
    keep = bool(config.getoption("harness_keep"))
    if keep and values.get("cluster") != "kind" and config.getoption("numprocesses", None):
        raise UsageError("--keep: there is one lab a worker, and no terminal in any of them", hint="run without -n, or with -n 0")
    return RunOptions(
        cluster=values.get("cluster", "netns"),
        cilium=values.get("cilium-version", "1.20"),
        cilium_asked="cilium-version" in values,
        hubble=values.get("hubble"),
        timeout=values.get("timeout"),
        hubble_listen=values.get("hubble-listen", ""),
        keep=keep,
        kube_context=values.get("kube-context"),
        image=values.get("image", ""),
        image_pull_policy=values.get("image-pull-policy", ""),
        image_pull_secret=values.get("image-pull-secret", ""),
        toleration=values.get("toleration", ""),
        node_selector=values.get("node-selector", ""),
        externals=values.get("externals", ""),
        profile=values.get("profile", ""),
        cilium_chart=values.get("cilium-chart", ""),
        kind_name=values.get("kind-name", ""),
        kind_image=values.get("kind-image", ""),
        allow_host="allow-host" in allowed,
        allow_clusterwide="allow-clusterwide" in allowed,
        repeat=tuple(repeat),
    )


def _check_writable(option: str, given: str, path: Path) -> None:
    """A report that cannot be written is better said before the run than after it. Writes nothing; missing folders are made later."""
    there = path
    try:
        if path.is_dir():
            raise UsageError(
                f"{option}: {given} is a folder", hint=f"name a file in it, such as {given.rstrip('/')}/report.{option.rpartition('-')[2]}"
            )
        while not there.exists() and there != there.parent:
            there = there.parent
    except OSError as error:
        raise UsageError(f"{option}: {given} cannot be written: {error.strerror}", hint="name a file in a folder of yours") from None
    if there != path and not there.is_dir():
        raise UsageError(f"{option}: {given} cannot be written: {there} is no folder", hint="name a file in a folder of yours")
    if not os.access(there, os.W_OK):
        raise UsageError(f"{option}: {given} cannot be written: no permission for {there}", hint="name a file in a folder of yours")


def _given(option: Option, config: pytest.Config, environment: Mapping[str, str]) -> tuple[str, str]:
    """The text, and the place that it comes from."""
    if (text := config.getoption(option.dest)) is not None:
        return ",".join(text) if option.several else str(text), f"--{option.name}"
    if text := environment.get(option.variable, ""):
        return text, f"environment variable {option.variable}"
    return str(config.getini(option.dest)), f"ini {option.dest}"


def _cluster(text: str) -> str:
    from harness.clusters.open import check_cluster  # the contracts of all layers: not for projects that set nothing

    check_cluster(text)
    return text


def _cilium(text: str) -> str:
    from harness.clusters.open import check_cilium

    check_cilium(text)
    return text


def _externals(text: str) -> str:
    from harness.clusters.kubernetes.externals import Externals

    Externals.read(text)
    return text


def _profile(text: str) -> str:
    from harness.clusters.kind.profile import Profile

    Profile.find(text)
    return text


def _kind_name(text: str) -> str:
    from harness.clusters.kind.wanted import check_name

    return check_name(text)


def _wish(name: str, text: str) -> str:
    """Text that `clusters.kubernetes.wishes` can read."""
    from harness.clusters.kubernetes import wishes

    getattr(wishes, name)(text)
    return text


def _hubble(text: str) -> str:
    known = ("require", "auto", "off")
    if text not in known:
        from harness.cases.suggest import did_you_mean

        raise UsageError(f"unknown value {text!r}", hint=f"{did_you_mean(text, known)} (one of {', '.join(known)})")
    return text


def _timeout(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 3600:
        raise UsageError(f"{text!r} is no time-out", hint="a number of seconds, such as 2 or 0.5")
    return seconds


def _listen(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not port.isdigit() or not 0 <= int(port) < 65536 or (colon and not host):
        raise UsageError(f"{text!r} is no address to listen at", hint="HOST:PORT or PORT, such as localhost:4245")
    return text if colon else f"localhost:{port}"


_CHECKS: Mapping[str, Callable[[str], Any]] = {
    "cluster": _cluster,
    "cilium-version": _cilium,
    "hubble": _hubble,
    "timeout": _timeout,
    "hubble-listen": _listen,
    "kube-context": str,
    "profile": _profile,
    "cilium-chart": str,
    "kind-name": _kind_name,
    "kind-image": str,
    "image": str,
    "image-pull-policy": partial(_wish, "pull_policy"),
    "image-pull-secret": partial(_wish, "pull_secrets"),
    "toleration": partial(_wish, "tolerations"),
    "externals": _externals,
    "node-selector": partial(_wish, "node_selector"),
}
