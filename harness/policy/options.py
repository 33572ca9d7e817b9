"""Switches of the policy model: the Cilium version it claims and the agent settings that change verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from harness.errors import UsageError

SUPPORTED = ("1.18", "1.19", "1.20")
"""Minor versions the model knows. 1.19 and 1.20 are verified against Cilium's own engine, 1.18 follows the text only."""
DEFAULT_CILIUM = "1.20"
ENFORCEMENT_MODES = ("default", "always", "never")


class Options(Struct, frozen=True):
    """`cilium` is a minor version of SUPPORTED (a patch level is accepted and ignored by `Options.of`)."""

    cilium: str = DEFAULT_CILIUM
    enforcement: str = "default"
    """policyEnforcementMode: default, always or never."""
    host_firewall: bool = False
    names_unknown: bool = False
    """True: what DNS taught the agents is unknown, so toFQDNs answers unknown. False: nothing was learned, it matches nothing."""
    cluster_name: str = "default"
    l7_proxy: bool = True
    node_selector_labels: bool = False
    cidr_match_mode: frozenset[str] = frozenset()
    audit: bool = False
    auth_enabled: bool = False
    ipv4: bool = True
    ipv6: bool = True
    extended_protocols: bool = False
    """enable-extended-ip-protocols: VRRP, IGMP and their like need no port."""
    non_default_deny: bool = True
    """enable-non-default-deny-policies: without it `enableDefaultDeny` is ignored."""
    icmp_rules: bool = True
    """enable-icmp-rules."""

    @classmethod
    def of(cls, cilium: str = DEFAULT_CILIUM, **settings: Any) -> Options:
        """Options for a version as people write it: `1.20`, `v1.19.7`, `1.20.0-rc.1`. UsageError if the model does not know it."""
        minor = ".".join(str(cilium).removeprefix("v").split(".")[:2])
        if minor not in SUPPORTED:
            raise UsageError(
                f"Cilium {cilium} is not a version that the policy model knows",
                hint=f"Use one of {', '.join(SUPPORTED)} (a patch level may follow).",
            )
        options = cls(cilium=minor, **settings)
        if options.enforcement not in ENFORCEMENT_MODES:
            raise UsageError(
                f"{options.enforcement!r} is not a policy enforcement mode",
                hint=f"Use one of {', '.join(ENFORCEMENT_MODES)}.",
            )
        return options

    def at_least(self, major: int, minor: int) -> bool:
        """True from Cilium `major.minor` on."""
        mine = self.cilium.split(".")
        return (int(mine[0]), int(mine[1])) >= (major, minor)

    @property
    def default_local_cluster(self) -> bool:
        """policy-default-local-cluster: selectors that name no cluster mean the local one. On by default since 1.19."""
        return self.at_least(1, 19)


OPTION_NAMES: Mapping[str, str] = {
    each.split("_")[0] + "".join(part.title() for part in each.split("_")[1:]): each
    for each in Options.__struct_fields__
    if each not in ("cilium", "enforcement", "names_unknown", "cidr_match_mode")
}
"""camelCase, as in scenarios, to the field."""
