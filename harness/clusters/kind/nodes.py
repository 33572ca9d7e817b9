"""The nodes of kind clusters: containers that kind makes and removes and docker knows. Not what runs on them."""

from __future__ import annotations

from pathlib import Path

from harness.clusters.kind.program import DOCKER, KIND
from harness.errors import ClusterError, ProgramError

_LABEL = "io.x-k8s.kind.cluster"
_QUICK = 60.0
_CREATION = 1200.0
"""Seconds; the node image is a gigabyte, and may have to be pulled."""


def check_programs() -> None:
    """Raises `ProgramMissingError`, or `ClusterError` where docker does not answer."""
    KIND.find()
    try:
        DOCKER.run("version", "--format", "{{.Server.Version}}", within=_QUICK)
    except ProgramError as error:
        denied = "permission denied" in error.said.lower()
        raise ClusterError(
            f"docker does not answer: {_first(error.said) or error.message}",
            hint="this user may not talk to it: `sudo usermod -aG docker $USER`, then log in again"
            if denied
            else "start it (`sudo systemctl start docker`), and see that `docker version` shows a server; DOCKER_HOST is honoured",
        ) from None


def containers(name: str) -> tuple[str, ...]:
    """The ids of a cluster's node containers, running or not; () for no cluster. kind finds them by the same label."""
    out = DOCKER.run("ps", "-a", "--no-trunc", "--filter", f"label={_LABEL}={name}", "--format", "{{.ID}}", within=_QUICK)
    return tuple(sorted(out.split()))


def names(name: str) -> tuple[str, ...]:
    """What its node containers, and its nodes, are called."""
    out = DOCKER.run("ps", "-a", "--filter", f"label={_LABEL}={name}", "--format", "{{.Names}}", within=_QUICK)
    return tuple(sorted(out.split()))


def running(name: str) -> bool:
    """Whether all of them run: after a restart of the machine they may not."""
    out = DOCKER.run("ps", "-a", "--filter", f"label={_LABEL}={name}", "--format", "{{.State}}", within=_QUICK)
    return set(out.split()) == {"running"}


def create(name: str, config: str, kubeconfig: Path) -> None:
    """Make the containers and a control plane; without a network yet, so nothing is ready. What fails is left for a look: `delete` it."""
    KIND.run(
        "create", "cluster", "--name", name, "--kubeconfig", str(kubeconfig), "--config", "-", "--retain", within=_CREATION, text=config
    )


def delete(name: str, kubeconfig: Path) -> None:
    """Remove the containers. No error where there are none."""
    KIND.run("delete", "cluster", "--name", name, "--kubeconfig", str(kubeconfig), within=_QUICK * 5)


def export_kubeconfig(name: str, kubeconfig: Path) -> None:
    """Write how to reach it."""
    KIND.run("export", "kubeconfig", "--name", name, "--kubeconfig", str(kubeconfig), within=_QUICK)


def export_logs(name: str, folder: Path) -> str:
    """The nodes' own logs (kubelet, containerd, kubeadm), and what kind says of it."""
    return KIND.run("export", "logs", "--name", name, str(folder), within=_QUICK * 5)


def _first(said: str) -> str:
    return next((line.strip() for line in said.splitlines() if line.strip()), "")
