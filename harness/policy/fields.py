"""Fields that nobody reads: what a misspelt name in a policy becomes on an API server that is not asked to be strict.

Beside the model, not in it: the model decides as Cilium does, which never sees such a field.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from harness.policy.crd import cilium_rule
from harness.policy.options import SUPPORTED
from harness.policy.parse_knp import NETWORK_POLICY_SPEC
from harness.policy.rules import NETWORK_POLICY
from harness.policy.schema import Check, Problem, UnknownField, array, record, unknown_field

_METADATA = (
    "annotations", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generateName", "generation",
    "labels", "managedFields", "name", "namespace", "ownerReferences", "resourceVersion", "selfLink", "uid",
)  # fmt: skip
"""ObjectMeta (Kubernetes apimachinery, pkg/apis/meta/v1/types.go)."""


def _anything(_value: Any, _path: str) -> Problem | None:
    return None


@cache
def _object(kind: str, minor: str) -> Check:
    rule = NETWORK_POLICY_SPEC if kind == NETWORK_POLICY else cilium_rule(minor)
    fields: dict[str, Check] = {
        "apiVersion": _anything,
        "kind": _anything,
        "metadata": record(dict.fromkeys(_METADATA, _anything)),
        "spec": rule,
        "status": _anything,
    }
    if kind != NETWORK_POLICY:
        fields["specs"] = array(rule)
    return record(fields)


def unknown_in(document: Mapping[str, Any]) -> UnknownField | None:
    """The first field of a policy that no supported Cilium version has, as `kubectl` with strict validation would find it."""
    kind = str(document.get("kind"))
    found: UnknownField | None = None
    for minor in reversed(SUPPORTED):
        found = unknown_field(_object(kind, minor), document, "")
        if found is None:
            return None
    return found
