"""Label selectors as Cilium forms them: sources of keys, the injected namespace, the cluster filter. Matching is in `identities`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.model.labels import ANY, CLUSTER_LABEL, K8S, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, RESERVED
from harness.policy import validate
from harness.policy.options import Options
from harness.policy.rules import LabelSelector, Operator, Requirement


class SelectorDraft:
    """A selector while it is being formed: matchLabels may still be set, expressions added. `done` makes the value."""

    __slots__ = ("expressions", "match_labels")

    def __init__(self) -> None:
        self.match_labels: dict[tuple[str, str], str] = {}
        self.expressions: list[Requirement] = []

    def has_key(self, key: str, *sources: str) -> bool:
        return any((source, key) in self.match_labels for source in sources) or any(
            each.key == key and each.source in sources for each in self.expressions
        )

    def has_source(self, source: str) -> bool:
        return any(each == source for each, _ in self.match_labels) or any(each.source == source for each in self.expressions)

    def has_key_prefix(self, prefix: str, *sources: str) -> bool:
        return any(source in sources and key.startswith(prefix) for source, key in self.match_labels) or any(
            each.source in sources and each.key.startswith(prefix) for each in self.expressions
        )

    def match(self, source: str, key: str, value: str) -> None:
        self.match_labels[source, key] = value

    def exists(self, source: str, key: str) -> None:
        self.expressions.append(Requirement(source, key, Operator.EXISTS))

    def done(self) -> LabelSelector:
        equals = [Requirement(source, key, Operator.EQUALS, (value,)) for (source, key), value in sorted(self.match_labels.items())]
        return LabelSelector((*equals, *self.expressions))


def cilium_draft(document: Mapping[str, Any], path: str, options: Options, *, prefix: str = "") -> SelectorDraft:
    """The selector of a Cilium policy, validated; keys without a source get `any`, or the source that `prefix` gives (`cidrgroup.`)."""
    draft = SelectorDraft()
    for key, value in (document.get("matchLabels") or {}).items():
        validate.label_key(key, f"{path}.matchLabels", options, prefix=prefix)
        validate.label_value(value, f"{path}.matchLabels.{key}")
        draft.match_labels[_sourced(key, options, prefix)] = value
    for index, each in enumerate(document.get("matchExpressions") or ()):
        where = f"{path}.matchExpressions[{index}]"
        values = tuple(each.get("values") or ())
        validate.expression(each["operator"], values, where)
        validate.label_key(each["key"], f"{where}.key", options, prefix=prefix)
        for at, value in enumerate(values):
            validate.label_value(value, f"{where}.values[{at}]")
        source, key = _sourced(each["key"], options, prefix)
        draft.expressions.append(Requirement(source, key, Operator(each["operator"]), values))
    return draft


def _sourced(text: str, options: Options, prefix: str) -> tuple[str, str]:
    if prefix:
        return prefix.removesuffix("."), text
    if not options.at_least(1, 20):
        # Kept as `source.key` inside and split again at the first dot.
        source, _, key = validate.extended_key(text).partition(".")
        return source, key
    source, key = validate.split_source(text)
    return source or ANY, key


def subject(draft: SelectorDraft, namespace: str) -> LabelSelector:
    """endpointSelector: the policy's namespace is always demanded; a clusterwide policy (namespace '') demands none."""
    if namespace:
        draft.match(K8S, NAMESPACE_LABEL, namespace)
    return draft.done()


def peer(draft: SelectorDraft, namespace: str, options: Options, *, matches_init: bool) -> LabelSelector:
    """An item of fromEndpoints or toEndpoints, with what Cilium adds where the user did not say namespace or cluster."""
    if draft.has_source(RESERVED):
        return draft.done()
    if not draft.has_key(NAMESPACE_LABEL, K8S, ANY):
        if not namespace:
            if not matches_init:
                draft.exists(K8S, NAMESPACE_LABEL)
        elif not draft.has_key_prefix(NAMESPACE_LABELS_PREFIX, K8S, ANY):
            draft.match(K8S, NAMESPACE_LABEL, namespace)
    add_cluster(draft, options)
    return draft.done()


def node_peer(draft: SelectorDraft, options: Options) -> LabelSelector:
    """An item of fromNodes or toNodes: remote nodes only."""
    draft.exists(RESERVED, "remote-node")
    add_cluster(draft, options)
    return draft.done()


def add_cluster(draft: SelectorDraft, options: Options) -> None:
    """policy-default-local-cluster: who names no cluster means the local one."""
    if options.default_local_cluster and not draft.has_key(CLUSTER_LABEL, K8S, ANY):
        draft.match(K8S, CLUSTER_LABEL, options.cluster_name)


def kubernetes_draft(document: Mapping[str, Any] | None, key_prefix: str = "") -> SelectorDraft:
    """The selector of a Kubernetes NetworkPolicy (already checked): all keys are Kubernetes' own, behind `key_prefix`."""
    draft = SelectorDraft()
    if document is None:
        return draft
    for key, value in (document.get("matchLabels") or {}).items():
        draft.match(K8S, key_prefix + key, value)
    for each in document.get("matchExpressions") or ():
        draft.expressions.append(Requirement(K8S, key_prefix + each["key"], Operator(each["operator"]), tuple(each.get("values") or ())))
    return draft
