"""What a user wants of a kind cluster, and whether it can be: pure, but for reading the files that it names."""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import Struct

from harness.clusters.kind.helm import Chart
from harness.clusters.kind.profile import DEFAULT_PROFILE, Profile
from harness.clusters.open import check_cilium
from harness.errors import UsageError
from harness.policy.options import DEFAULT_CILIUM

DEFAULT_NAME = "cilium-policy-harness"
REPOSITORY = "https://helm.cilium.io/"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LONGEST = 50
"""kind adds `-control-plane` to it, and a host's name has at most 64 characters."""
_MINOR = re.compile(r"\d+\.\d+")


class Wanted(Struct, frozen=True):
    """A cluster as it shall be. `cilium`, `profile` '': whatever is there, or else the default.

    `chart`: a folder, an archive or an `oci://` reference instead of Cilium's own repository. `kubernetes`: a node image, or '' for kind's own.
    """

    name: str = DEFAULT_NAME
    cilium: str = ""
    profile: str = ""
    chart: str = ""
    kubernetes: str = ""
    config: str = ""
    """A kind configuration; '' for the project's kind-config.yaml."""
    namespace: str = "kube-system"
    """Where Cilium is installed."""

    @property
    def context(self) -> str:
        return f"kind-{self.name}"

    @property
    def version(self) -> str:
        """What Helm is asked for: a version, or for a minor release its newest patch. '' where the chart is a folder or a file: it has one."""
        text = self.cilium.removeprefix("v")
        if self.chart and not self.chart.startswith("oci://"):
            return text
        text = text or DEFAULT_CILIUM
        return f"~{text}.0" if _MINOR.fullmatch(text) else text

    @property
    def source(self) -> Chart:
        """What Helm is to install."""
        return Chart(self.chart, self.version) if self.chart else Chart("cilium", self.version, REPOSITORY)

    def is_met(self, version: str, profile: str, chart: str) -> bool:
        """Whether a cluster with this is what is wanted: of what is not said, anything is."""
        asked = self.cilium.removeprefix("v")
        return (
            (not asked or version == asked or version.startswith(f"{asked}."))
            and self.profile in ("", profile)
            and self.chart in ("", chart)
        )

    def check(self) -> Profile:
        """The profile. Raises `UsageError` for what cannot be, before anything is made."""
        check_name(self.name)
        if self.cilium:
            check_cilium(self.cilium)
        if self.chart and not self.chart.startswith("oci://") and not Path(self.chart).exists():
            raise UsageError(
                f"there is no chart at {self.chart}",
                hint="name a chart's folder, its .tgz, or an oci:// reference; without one it is Cilium's own",
            )
        return Profile.find(self.profile or DEFAULT_PROFILE)


def check_name(name: str) -> str:
    """Raises `UsageError` for a name that kind would not take."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise UsageError(
            f"{name!r} cannot be the name of a kind cluster", hint=f"letters a-z, digits, `-` and `.`, {_LONGEST} characters at most"
        )
    return name
