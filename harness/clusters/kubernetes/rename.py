"""A case's namespaces under names of their own, and every reference to them in policies, names and flows. Pure.

The law: renaming policies and state and then evaluating equals evaluating and then renaming.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from harness.errors import ClusterError
from harness.model.cluster import CIDRGroup
from harness.model.flow import Flow, FlowEndpoint
from harness.model.labels import NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX
from harness.model.verdict import PolicyRef

METADATA_NAME = "kubernetes.io/metadata.name"
CCNP = "CiliumClusterwideNetworkPolicy"
_NAMESPACE_KEYS = frozenset({NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX + METADATA_NAME})
_LONGEST_NAMESPACE = 63
_LONGEST_NAME = 253
GROUP_LABEL = "policy-harness/cidr-group"
"""Whose CIDR group it is: a case's selectors of groups see the case's own only."""
_NOT_PODS = frozenset({"nodeSelector", "fromNodes", "toNodes"})
"""Selectors of what lives in no namespace."""
_NAMES = frozenset({"matchName", "matchPattern"})


def unique(name: str, suffix: str, longest: int = _LONGEST_NAMESPACE) -> str:
    """`name-suffix`; a name that would be too long is cut, and told apart by a digest."""
    whole = f"{name}-{suffix}"
    if len(whole) <= longest:
        return whole
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    kept = name[: longest - len(suffix) - len(digest) - 2].rstrip("-.")
    return f"{kept}-{digest}-{suffix}"


class Renaming(Struct, frozen=True):
    """The names of one case on the cluster. `namespaces` maps the case's to the cluster's."""

    namespaces: Mapping[str, str]
    suffix: str
    _back: Mapping[str, str] = field(default_factory=dict)
    _policies: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, namespaces: Iterable[str], suffix: str, clusterwide: Iterable[str] = ()) -> Renaming:
        """`suffix` tells the run and the case: `<run>-<case>`. `clusterwide` are the names of the case's clusterwide policies: only those
        can be told again where they were too long."""
        there = {name: unique(name, suffix) for name in namespaces}
        policies = {unique(name, suffix, _LONGEST_NAME): name for name in clusterwide}
        return cls(there, suffix, {new: old for old, new in there.items()}, policies)

    def namespace(self, name: str) -> str:
        """The cluster's name of a namespace; one that is not the case's stays."""
        return self.namespaces.get(name, name)

    def original(self, name: str) -> str:
        """The inverse of `namespace`."""
        return self._back.get(name, name)

    def clusterwide(self, name: str) -> str:
        return unique(name, self.suffix, _LONGEST_NAME)

    def group(self, group: CIDRGroup) -> CIDRGroup:
        """The CIDR group as it is to be created."""
        return replace(group, name=self.clusterwide(group.name), labels={**group.labels, GROUP_LABEL: self.suffix})

    def ref(self, ref: PolicyRef) -> PolicyRef:
        """Where the policy is on the cluster."""
        if not ref.namespace:
            return PolicyRef(ref.kind, "", self.clusterwide(ref.name))
        return PolicyRef(ref.kind, self.namespace(ref.namespace), ref.name)

    # Names in DNS

    def dns(self, name: str) -> str:
        """A service's DNS name, or a pattern of such names: `svc.NAMESPACE.svc[.cluster.local]`. Others stay."""
        return _dns(name, self.namespaces)

    # Policies

    def document(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The policy as it is to be applied. A clusterwide one is renamed and scoped to the case's namespaces; one for nodes cannot be:
        ClusterError. What is malformed stays as it is, for the API server to refuse."""
        out = dict(document)
        metadata = dict(document.get("metadata") or {})
        clusterwide = document.get("kind") == CCNP
        if clusterwide:
            metadata["name"] = self.clusterwide(str(metadata.get("name", "")))
            metadata.pop("namespace", None)
        elif "namespace" in metadata:
            metadata["namespace"] = self.namespace(str(metadata["namespace"]))
        out["metadata"] = metadata
        network_policy = document.get("kind") == "NetworkPolicy"
        for key in ("spec", "specs"):
            if key in document:
                out[key] = self._rewrite(document[key], network_policy=network_policy)
        if clusterwide:
            self._scope(out)
        return out

    def _rewrite(self, node: Any, *, network_policy: bool) -> Any:
        if isinstance(node, list):
            return [self._rewrite(each, network_policy=network_policy) for each in node]
        if not isinstance(node, Mapping):
            return node
        return {key: self._field(key, value, network_policy=network_policy) for key, value in node.items()}

    def _field(self, key: Any, value: Any, *, network_policy: bool) -> Any:
        if key in _NOT_PODS:
            return value
        if key == "cidrGroupRef" and isinstance(value, str):
            return self.clusterwide(value)
        if key == "cidrGroupSelector":
            return self._of_case(value)
        if key == "namespaceSelector" and network_policy:
            return self._selector(value, frozenset({METADATA_NAME}))
        if key in {"k8sService", "k8sServiceSelector"} and isinstance(value, Mapping):
            return {name: self.namespace(each) if name == "namespace" and isinstance(each, str) else each for name, each in value.items()}
        if key == "matchLabels" and isinstance(value, Mapping):
            return self._selector({"matchLabels": value}, _NAMESPACE_KEYS)["matchLabels"]
        if key == "matchExpressions" and isinstance(value, list):
            return self._selector({"matchExpressions": value}, _NAMESPACE_KEYS)["matchExpressions"]
        if key in _NAMES and isinstance(value, str):
            return self.dns(value)
        return self._rewrite(value, network_policy=network_policy)

    def _of_case(self, selector: Any) -> Any:
        """A selector of CIDR groups that sees the case's own only. One that demands no label is left alone: it means everybody, be he in
        a group or not."""
        if not isinstance(selector, Mapping):
            return selector
        labels, expressions = selector.get("matchLabels") or {}, selector.get("matchExpressions") or []
        if not isinstance(labels, Mapping) or not isinstance(expressions, list):
            return selector
        demands = (each.get("operator") in {"In", "Exists"} for each in expressions if isinstance(each, Mapping))
        if not labels and not any(demands):
            return selector
        return {**selector, "matchLabels": {**labels, GROUP_LABEL: self.suffix}}

    def _selector(self, selector: Any, keys: frozenset[str]) -> Any:
        """A label selector with the values of these keys renamed, whatever source the keys are written with."""
        if not isinstance(selector, Mapping):
            return selector
        out = dict(selector)
        labels, expressions = selector.get("matchLabels"), selector.get("matchExpressions")
        if isinstance(labels, Mapping):
            out["matchLabels"] = {key: self._value(value) if _bare(key) in keys else value for key, value in labels.items()}
        if isinstance(expressions, list):
            out["matchExpressions"] = [self._expression(each, keys) for each in expressions]
        return out

    def _expression(self, expression: Any, keys: frozenset[str]) -> Any:
        if not isinstance(expression, Mapping) or _bare(expression.get("key")) not in keys:
            return expression
        values = expression.get("values")
        return {**expression, "values": [self._value(each) for each in values]} if isinstance(values, list) else expression

    def _value(self, value: Any) -> Any:
        return self.namespace(value) if isinstance(value, str) else value

    def _scope(self, document: dict[str, Any]) -> None:
        """Make a clusterwide policy select only pods of the case."""
        ours = {"key": f"k8s:{NAMESPACE_LABEL}", "operator": "In", "values": sorted(self.namespaces.values())}
        specs = [document.get("spec"), *(document["specs"] if isinstance(document.get("specs"), list) else ())]
        for spec in specs:
            if not isinstance(spec, dict):
                continue
            if spec.get("nodeSelector") is not None:
                raise ClusterError(
                    f"{CCNP} {document['metadata']['name']} selects nodes: that cannot be scoped to this run's pods",
                    hint="run it in the lab or on a kind cluster of your own",
                )
            selector = spec.get("endpointSelector")
            if isinstance(selector, Mapping):
                expressions = selector.get("matchExpressions") or []
                if isinstance(expressions, list):
                    spec["endpointSelector"] = {**selector, "matchExpressions": [*expressions, ours]}

    # Flows, back to the case's names

    def policy(self, ref: PolicyRef) -> PolicyRef:
        """The case's name of a policy on the cluster: the inverse of `ref`."""
        if not ref.namespace:
            return PolicyRef(ref.kind, "", self._policies.get(ref.name) or ref.name.removesuffix(f"-{self.suffix}"))
        return PolicyRef(ref.kind, self.original(ref.namespace), ref.name)

    def flow(self, flow: Flow) -> Flow:
        """The flow in the case's names."""
        return replace(
            flow,
            source=self._endpoint(flow.source),
            destination=self._endpoint(flow.destination),
            egress_allowed_by=tuple(map(self.policy, flow.egress_allowed_by)),
            ingress_allowed_by=tuple(map(self.policy, flow.ingress_allowed_by)),
            egress_denied_by=tuple(map(self.policy, flow.egress_denied_by)),
            ingress_denied_by=tuple(map(self.policy, flow.ingress_denied_by)),
            source_service=self._service(flow.source_service),
            destination_service=self._service(flow.destination_service),
            source_names=tuple(_dns(name, self._back) for name in flow.source_names),
            destination_names=tuple(_dns(name, self._back) for name in flow.destination_names),
        )

    def _endpoint(self, endpoint: FlowEndpoint) -> FlowEndpoint:
        if endpoint.namespace not in self._back:
            return endpoint
        return replace(endpoint, namespace=self.original(endpoint.namespace), labels=tuple(self._labels(endpoint.labels)))

    def _labels(self, labels: Iterable[str]) -> Iterator[str]:
        for label in labels:
            key, equals, value = label.partition("=")
            yield f"{key}={self.original(value)}" if equals and _bare(key) in _NAMESPACE_KEYS else label

    def _service(self, service: str) -> str:
        namespace, slash, name = service.partition("/")
        return f"{self.original(namespace)}/{name}" if slash else service


def _bare(key: Any) -> str:
    """A selector's key without the source it may be written with."""
    return key.rpartition(":")[2] if isinstance(key, str) else ""


def _dns(name: str, namespaces: Mapping[str, str]) -> str:
    labels = name.split(".")
    for at in range(1, len(labels) - 1):
        if labels[at + 1].lower() == "svc" and ".".join(labels[at + 2 :]).rstrip(".").lower() in {"", "cluster.local"}:
            labels[at] = namespaces.get(labels[at].lower(), labels[at])
            return ".".join(labels)
    return name
