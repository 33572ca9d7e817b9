"""Whether a cluster has what a case needs, and if not, why not: the reason of a skip. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from harness.cases.case import Requirements
from harness.clusters.base import Capabilities


def unmet(requirements: Iterable[Requirements], capabilities: Capabilities) -> str:
    """The first thing that is missing, as a sentence for a person; '' where everything is there."""
    for each in requirements:
        if each.cilium and not _version_fits(each.cilium, capabilities.cilium):
            return f"requires Cilium {each.cilium}; this is {capabilities.cilium}"
        for feature in sorted(each.features):
            if feature.startswith("!"):
                if feature[1:] in capabilities.features:
                    return f"requires a cluster without {feature[1:]}; this one has it"
            elif feature not in capabilities.features:
                why = capabilities.lacking.get(feature, "this cluster does not have it")
                return f"requires {feature}: {why}"
    return ""


def _version_fits(specifier: str, version: str) -> bool:
    """A pre-release counts as the release it leads to: 1.20.0-pre.4 has what 1.20 has."""
    try:
        base = Version(Version(version).base_version)
    except InvalidVersion:
        return False
    return SpecifierSet(specifier).contains(base, prereleases=True)
