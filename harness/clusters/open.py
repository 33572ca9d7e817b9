"""Opens a place to run by its name. The only module that knows every cluster there is; each is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING

from msgspec import Struct

from harness.cases.suggest import did_you_mean
from harness.clusters.base import Cluster
from harness.errors import UsageError
from harness.policy.options import DEFAULT_CILIUM, SUPPORTED

if TYPE_CHECKING:
    from harness.clusters.kubernetes.cluster import KubernetesOptions
    from harness.clusters.kubernetes.wishes import PodOptions

CLUSTERS = ("netns", "kind", "existing", "memory")
"""Every name that `--cluster` knows; the first is the default."""
DEFAULT_CLUSTER = CLUSTERS[0]


class Hubble(StrEnum):
    """What is asked of flows. `require`: none at start is an error. `auto`: decided once at start. `off`: packets only."""

    REQUIRE = "require"
    AUTO = "auto"
    OFF = "off"


class ClusterOptions(Struct, frozen=True):
    """What a user may say about the place to run. `worker` tells the workers of one run apart ('' when there is one).

    `keep`: leave the last case deployed when the run ends. `cilium` is the version that netns and memory claim.
    """

    cilium: str = DEFAULT_CILIUM
    hubble: Hubble | None = None
    """None: the cluster's default (`require`, on `existing` `auto`)."""
    keep: bool = False
    run: str = ""
    """What the workers of one run have in common and no other run has; '' where there is one process."""
    worker: str = ""
    hubble_listen: str = ""
    """Serve the lab's flows at this address (HOST:PORT) too; '' for its own socket only."""
    kube_context: str | None = None
    """The kubeconfig context of an existing cluster; None for the current one."""
    image: str = ""
    """The image of a cluster's pods, any with python3; '' for the default."""
    image_pull_policy: str = ""
    """Always, IfNotPresent (the default) or Never."""
    image_pull_secret: str = ""
    """`NAMESPACE/NAME` is copied to the run's namespaces, `NAME` is there already; several with commas, here and below."""
    toleration: str = ""
    """`KEY[=VALUE][:EFFECT]` of taints that the test pods take no notice of."""
    node_selector: str = ""
    """`KEY=VALUE` of the nodes that the test pods may go to."""
    externals: str = ""
    """A file that maps what cases call external to addresses and ports that the user answers for."""
    allow_host: bool = False
    """On an existing cluster: host-network pods, in a privileged namespace of their own."""
    allow_clusterwide: bool = False
    """On an existing cluster: clusterwide policies, renamed and scoped to the pods of the run."""
    cilium_asked: bool = False
    """Whether the user named `cilium`: a kind cluster that is there is used whatever its version, where nobody did."""
    profile: str = ""
    """kind: the profile of Cilium's values; '' for the cluster's own, or else the default."""
    cilium_chart: str = ""
    """kind: a chart instead of the one of Cilium's repository."""
    kind_name: str = ""
    kind_image: str = ""
    """kind: the node image, that is, the Kubernetes version."""
    tell: Callable[[str], None] = lambda line: None  # noqa: ARG005  # whoever has a person to tell says how


def default_hubble(name: str) -> Hubble:
    """What is asked of flows on a cluster when the user says nothing."""
    return Hubble.AUTO if name == "existing" else Hubble.REQUIRE


def default_timeout(name: str) -> float:
    """Seconds that a probe waits for its answer when the user says nothing."""
    return 1.0 if name in ("netns", "memory") else 3.0


def _hint(word: str, known: tuple[str, ...]) -> str:
    hint = did_you_mean(word, known)
    return hint if hint.startswith("known") else f"{hint} (known: {', '.join(known)})"


def check_cluster(name: str) -> None:
    """Raise `UsageError` for a name that no cluster has."""
    if name not in CLUSTERS:
        raise UsageError(f"unknown cluster {name!r}", hint=_hint(name, CLUSTERS))


def check_cilium(version: str) -> None:
    """Raise `UsageError` for a Cilium version that the policy model does not know."""
    if ".".join(version.removeprefix("v").split(".")[:2]) not in SUPPORTED:
        raise UsageError(f"the policy model does not know Cilium {version!r}", hint=_hint(version, SUPPORTED))


def open_cluster(name: str, options: ClusterOptions | None = None) -> Cluster:
    """The place to run, ready for `prepare`. Raises `UsageError` for a wrong name or version, `ClusterError` where it cannot be had."""
    options = options or ClusterOptions()
    check_cluster(name)
    hubble = options.hubble or default_hubble(name)
    if name == "kind":
        return _kind(options, hubble)
    check_cilium(options.cilium)
    if name == "existing":
        return _existing(options, hubble)
    if name == "memory":
        from harness.clusters.memory.cluster import MemoryCluster

        return MemoryCluster(cilium=options.cilium, flows=hubble is not Hubble.OFF)
    from harness.clusters.netns.cluster import LabOptions, NetnsCluster

    return NetnsCluster(
        LabOptions(cilium=options.cilium, flows=hubble is not Hubble.OFF, worker=options.worker, hubble_listen=options.hubble_listen)
    )


def _existing(options: ClusterOptions, hubble: Hubble) -> Cluster:
    from harness.clusters.kubernetes.cluster import KubernetesCluster

    return KubernetesCluster(_kubernetes(options, hubble))


def _kind(options: ClusterOptions, hubble: Hubble) -> Cluster:
    from harness.clusters.kind.cluster import KindCluster
    from harness.clusters.kind.wanted import DEFAULT_NAME, Wanted

    wanted = Wanted(
        options.kind_name or DEFAULT_NAME,
        cilium=options.cilium if options.cilium_asked else "",
        profile=options.profile,
        chart=options.cilium_chart,
        kubernetes=options.kind_image,
    )
    return KindCluster(wanted, _kubernetes(options, hubble), options.tell, keep=options.keep)


def _kubernetes(options: ClusterOptions, hubble: Hubble) -> KubernetesOptions:
    from harness.clusters.kubernetes.cluster import KubernetesOptions
    from harness.clusters.kubernetes.externals import Externals

    return KubernetesOptions(
        context=options.kube_context,
        cilium=options.cilium,
        flows=hubble is not Hubble.OFF,
        require_flows=hubble is Hubble.REQUIRE,
        allow_host=options.allow_host,
        allow_clusterwide=options.allow_clusterwide,
        run=options.run,
        worker=options.worker,
        pods=_pods(options),
        externals=Externals.read(options.externals),
    )


def _pods(options: ClusterOptions) -> PodOptions:
    from harness.clusters.kubernetes import wishes

    return wishes.PodOptions(
        image=options.image or wishes.DEFAULT_IMAGE,
        pull_policy=wishes.pull_policy(options.image_pull_policy or "IfNotPresent"),
        pull_secrets=wishes.pull_secrets(options.image_pull_secret),
        tolerations=wishes.tolerations(options.toleration),
        node_selector=wishes.node_selector(options.node_selector),
    )
