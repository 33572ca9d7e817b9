"""Policy documents to typed policies. A document that the API server or the agent would refuse parses too, into its refusal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.errors import PolicyFileError
from harness.model.verdict import PolicyError, PolicyRef, PolicyStage
from harness.policy.crd import cilium_rule
from harness.policy.options import Options
from harness.policy.parse_cilium import parse_cilium
from harness.policy.parse_knp import parse_knp
from harness.policy.rules import (
    CILIUM_CLUSTERWIDE_NETWORK_POLICY,
    CILIUM_NETWORK_POLICY,
    NETWORK_POLICY,
    Policy,
)
from harness.policy.schema import is_array, type_name
from harness.policy.validate import Refusal

API_VERSIONS: Mapping[str, str] = {
    CILIUM_NETWORK_POLICY: "cilium.io/v2",
    CILIUM_CLUSTERWIDE_NETWORK_POLICY: "cilium.io/v2",
    NETWORK_POLICY: "networking.k8s.io/v1",
}
"""The kinds of policy the model knows, and their only API version."""

DEFAULT_NAMESPACE = "default"


def listed(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The object itself, or those in it if it is a List (of any depth); PolicyFileError for a List without `items`.

    The items of a NetworkPolicyList may leave out kind and apiVersion, as those do that an API server answers with.
    """
    kind = document.get("kind")
    item_kind = kind.removesuffix("List") if isinstance(kind, str) and kind.endswith("List") else None
    if item_kind is None or (item_kind and item_kind not in API_VERSIONS):
        yield document
        return
    items = document.get("items")
    if not is_array(items) or not all(isinstance(each, Mapping) for each in items or ()):
        raise PolicyFileError(f"a {kind} needs `items`, a list of objects")
    known = {"apiVersion": document.get("apiVersion"), "kind": item_kind} if item_kind else {}
    for each in items or ():
        yield from listed({**known, **each})


def policy_ref(document: Mapping[str, Any]) -> PolicyRef:
    """Kind, namespace and name of a policy document; PolicyFileError if its kind is not a network policy."""
    kind = document.get("kind")
    if not isinstance(kind, str) or kind not in API_VERSIONS:
        raise PolicyFileError(
            f"kind {kind!r} is not a network policy" if kind else "the object has no kind",
            hint=f"The harness knows {', '.join(API_VERSIONS)}.",
        )
    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    name, namespace = metadata.get("name"), metadata.get("namespace")
    clusterwide = kind == CILIUM_CLUSTERWIDE_NETWORK_POLICY
    return PolicyRef(
        kind,
        "" if clusterwide else namespace if isinstance(namespace, str) and namespace else DEFAULT_NAMESPACE,
        name if isinstance(name, str) else "",
    )


def parse_policy(document: Mapping[str, Any], options: Options) -> Policy:
    """The typed policy. Content that a cluster would refuse gives `Policy.error`, never an exception; an unknown kind PolicyFileError."""
    ref = policy_ref(document)
    try:
        _check_object(document, ref)
        if ref.kind == NETWORK_POLICY:
            return Policy(ref, parse_knp(document.get("spec"), ref, options))
        _check_schema(document, options)
        rules, remarks = parse_cilium(document, ref, options)
    except Refusal as refusal:
        return Policy(ref, error=refusal.error)
    return Policy(ref, rules, remarks=remarks, log=_logs(document))


def _check_object(document: Mapping[str, Any], ref: PolicyRef) -> None:
    version, wanted = document.get("apiVersion"), API_VERSIONS[ref.kind]
    if version != wanted:
        raise Refusal(
            PolicyStage.SCHEMA,
            "apiVersion",
            f'no matches for kind "{ref.kind}" in version "{version}": write {wanted}' if version else f"not set: write {wanted}",
        )
    metadata = document.get("metadata")
    if not isinstance(metadata, Mapping):
        raise Refusal(PolicyStage.SCHEMA, "metadata", "Required value")
    for key in ("name", "namespace"):
        value = metadata.get(key)
        if value is not None and not isinstance(value, str):
            raise Refusal(PolicyStage.SCHEMA, f"metadata.{key}", f'Invalid value: "{type_name(value)}": must be of type string')
    if not ref.name:
        raise Refusal(PolicyStage.SCHEMA, "metadata.name", "Required value: name or generateName is required")


def _check_schema(document: Mapping[str, Any], options: Options) -> None:
    check = cilium_rule(options.cilium)
    problem = None
    spec, specs = document.get("spec"), document.get("specs")
    if spec is not None:
        problem = check(spec, "spec")
    if problem is None and specs is not None:
        if not is_array(specs):
            problem = "specs", f'Invalid value: "{type_name(specs)}": must be of type array'
        else:
            problem = next((found for index, each in enumerate(specs) if (found := check(each, f"specs[{index}]"))), None)
    if problem is not None:
        raise Refusal(PolicyStage.SCHEMA, *problem)


def _logs(document: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    specs = [("", document.get("spec"))] + [(f"specs[{index}].", each) for index, each in enumerate(document.get("specs") or ())]
    for path, spec in specs:
        value = ((spec or {}).get("log") or {}).get("value")
        if value:
            found[path] = value
    return found


__all__ = ["API_VERSIONS", "PolicyError", "listed", "parse_policy", "policy_ref"]
