"""One release of a Helm chart: installing, upgrading, going back. Waiting for what it deploys is `ready`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from msgspec import Struct
from msgspec.structs import replace

from harness.clusters.kind.program import HELM
from harness.errors import ClusterError, ProgramError

_WITHIN = 300.0
_ABSENT = re.compile(r"not found|no chart version found|no chart name found|invalid chart reference", re.IGNORECASE)
_UNREACHABLE = re.compile(r"cannot be reached|no such host|dial tcp|i/o timeout|TLS handshake", re.IGNORECASE)
"""What Helm 3 says of a repository, and of a chart or version in it."""


class Chart(Struct, frozen=True):
    """Where a chart comes from: a folder, an archive, an `oci://` reference, or with `repository` a name there. `version` '': its newest."""

    reference: str
    version: str = ""
    repository: str = ""

    @property
    def words(self) -> list[str]:
        """For a command line."""
        version = ["--version", self.version] if self.version else []
        return [self.reference, *version, *(["--repo", self.repository] if self.repository else [])]

    def exact(self) -> Chart:
        """With the version that it has, which is how one knows that it is there. ClusterError where it is not. Asks no cluster."""
        try:
            said = yaml.safe_load(HELM.run("show", "chart", *self.words, within=_WITHIN))
        except ProgramError as error:
            raise self._explained(error) from None
        return replace(self, version=str(said["version"]))

    def _explained(self, error: ProgramError) -> ClusterError:
        what = f"{self.reference} {self.version}".strip() + (f" of {self.repository}" if self.repository else "")
        if _UNREACHABLE.search(error.said):
            return ClusterError(
                f"the chart {what} cannot be fetched: {error.message}", hint="without the network pass --cilium-chart a folder or a .tgz"
            )
        if _ABSENT.search(error.said):
            return ClusterError(
                f"there is no chart {what}",
                hint="name a version that there is (`helm search repo cilium --versions` lists them), or a minor release such as 1.19",
            )
        return error


class Deployed(Struct, frozen=True):
    """A release as it stands. `version` is the chart's."""

    version: str
    revision: int
    status: str


class Release(Struct, frozen=True):
    """A release by name and namespace, on the cluster of a kubeconfig's context."""

    name: str
    namespace: str
    context: str
    kubeconfig: Path | None = None
    """None: what KUBECONFIG says."""

    def deployed(self) -> Deployed | None:
        """None where there is no such release."""
        found = json.loads(self._run("list", "--all", "--filter", f"^{self.name}$", "-o", "json") or "[]")
        if not found:
            return None
        return Deployed(str(found[0]["chart"]).rpartition("-")[2], int(found[0]["revision"]), str(found[0]["status"]))

    def apply(self, chart: Chart, values: Sequence[Path], settings: Sequence[str] = ()) -> Deployed:
        """Install it, or upgrade to it; earlier values do not linger. ClusterError in Helm's words, or the chart's."""
        words = [*(word for path in values for word in ("-f", str(path))), *(word for each in settings for word in ("--set", each))]
        self._run("upgrade", "--install", self.name, *chart.words, "--reset-values", "--create-namespace", *words)
        deployed = self.deployed()
        if deployed is None:
            raise ClusterError(f"helm installed {self.name} in {self.namespace}, and does not find it there")
        return deployed

    def roll_back(self, revision: int) -> None:
        """To what a former revision was."""
        self._run("rollback", self.name, str(revision))

    def remove(self) -> None:
        """No error where it is not there."""
        self._run("uninstall", self.name, "--ignore-not-found")

    def values(self) -> str:
        """What was asked for, as YAML."""
        return self._run("get", "values", self.name, "-o", "yaml")

    def _run(self, *arguments: str) -> str:
        where = ["--namespace", self.namespace, "--kube-context", self.context]
        kubeconfig = ["--kubeconfig", str(self.kubeconfig)] if self.kubeconfig else []
        return HELM.run(*arguments, *where, *kubeconfig, within=_WITHIN)
