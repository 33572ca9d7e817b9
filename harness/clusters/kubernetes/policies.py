"""Applies and removes policies, strictly, and remembers how the API server took each. Not whether they are enforced: `enforcement`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubernetes.client.exceptions import ApiException
from msgspec import Struct

from harness.cases.case import PolicyObject
from harness.clusters.kubernetes.client import API_ERRORS, Api, failure, said
from harness.clusters.kubernetes.rename import CCNP, Renaming
from harness.clusters.kubernetes.run import RunId
from harness.errors import ClusterError
from harness.model.verdict import PolicyError, PolicyRef, PolicyStage

CNP = "CiliumNetworkPolicy"
KNP = "NetworkPolicy"
_PLURALS = {CNP: "ciliumnetworkpolicies", CCNP: "ciliumclusterwidenetworkpolicies", KNP: "networkpolicies"}
MARK = "policy-harness-revision"
"""The key of the label that tells an agent's new version of a replaced policy from the one before."""
_REFUSED = frozenset({400, 422})


class Applied(Struct, frozen=True):
    """A policy that the API server has. `mark` is '' for one that was never replaced; `condition` is the verdict that stood before."""

    uid: str
    version: str
    mark: str = ""
    condition: str = ""


@dataclass(slots=True)
class Policies:
    """The policies of one case. `refused` are those that the API server would not take; `gone` the uids of removed ones."""

    api: Api
    renaming: Renaming
    run: RunId
    allow_clusterwide: bool
    applied: dict[PolicyRef, Applied] = field(default_factory=dict)
    refused: dict[PolicyRef, PolicyError] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def remove(self, ref: PolicyRef) -> None:
        """What is not there is gone already."""
        self.refused.pop(ref, None)
        known = self.applied.pop(ref, None)
        if known is None:
            return
        there = self.renaming.ref(ref)
        try:
            self._call("delete", there, name=there.name)
        except API_ERRORS as error:
            if not (isinstance(error, ApiException) and error.status == 404):
                raise failure(f"cannot remove {ref}", error) from None
        self.gone.add(known.uid)

    def apply(self, policy: PolicyObject, revision: int) -> None:
        """Create or replace. What the API server refuses is remembered and not raised."""
        ref = policy.ref
        if ref.kind == CCNP and not self.allow_clusterwide:
            raise ClusterError(
                f"{ref} is clusterwide, and this cluster is not ours alone",
                hint="--allow-clusterwide applies it, scoped to the pods of this run",
            )
        document = self.renaming.document(policy.document)
        metadata = document["metadata"]
        metadata["labels"] = {**(metadata.get("labels") or {}), **self.run.labels}
        known = self.applied.get(ref)
        if known is not None and ref.kind == KNP:
            # The API server's Network Policies carry nothing that tells an agent's versions apart but their uid.
            self.remove(ref)
            known = None
        there = self.renaming.ref(ref)
        try:
            if known is None:
                got = self._call("create", there, body=document)
                self.applied[ref] = Applied(_of(got, "uid"), _of(got, "resourceVersion"))
            else:
                current = self._call("get", there, name=there.name)
                metadata["resourceVersion"] = _of(current, "resourceVersion")
                mark = str(revision)
                _mark(document, mark)
                got = self._call("replace", there, name=there.name, body=document)
                self.applied[ref] = Applied(_of(got, "uid"), _of(got, "resourceVersion"), mark, condition_text(current))
        except API_ERRORS as error:
            if isinstance(error, ApiException) and (error.status in _REFUSED or _webhook(error)):
                self.refused[ref] = PolicyError(PolicyStage.SCHEMA, said(error))
                return
            raise failure(f"cannot apply {ref}", error) from None
        self.refused.pop(ref, None)

    def read(self, ref: PolicyRef) -> Mapping[str, Any]:
        """The object as the API server has it."""
        there = self.renaming.ref(ref)
        try:
            found: Mapping[str, Any] = self._call("get", there, name=there.name)
        except API_ERRORS as error:
            raise failure(f"cannot read {ref}", error) from None
        return found

    def remove_clusterwide(self) -> None:
        """Those that no namespace takes along when it goes."""
        for ref in [each for each in self.applied if not each.namespace]:
            self.remove(ref)

    def _call(self, verb: str, there: PolicyRef, *, name: str = "", body: Mapping[str, Any] | None = None) -> Any:
        group, version = ("networking.k8s.io", "v1") if there.kind == KNP else ("cilium.io", "v2")
        if there.kind not in _PLURALS:
            raise ClusterError(f"{there}: {there.kind} is no policy that clusters know")
        where = [group, version, *([there.namespace] if there.namespace else []), _PLURALS[there.kind], *([name] if name else [])]
        scope = "namespaced" if there.namespace else "cluster"
        method = getattr(self.api.objects, f"{verb}_{scope}_custom_object")
        more: dict[str, Any] = {"_request_timeout": 15}
        if body is not None:
            where.append(body)  # type: ignore[arg-type]  # the client takes it by position
            more["field_validation"] = "Strict"  # else the server drops a mistyped field without a word
        return method(*where, **more)


def _mark(document: dict[str, Any], mark: str) -> None:
    """Make the agent's version of a replaced policy recognisable: rules carry their labels, and policy ignores them."""
    label = {"source": "unspec", "key": MARK, "value": mark}
    specs = [document.get("spec"), *(document["specs"] if isinstance(document.get("specs"), list) else ())]
    for spec in specs:
        if isinstance(spec, dict) and isinstance(spec.get("labels") or [], list):
            spec["labels"] = [*(spec.get("labels") or []), label]


def _of(body: Any, key: str) -> str:
    return str(body["metadata"].get(key, ""))


def _webhook(error: ApiException) -> bool:
    return error.status == 403 and "admission webhook" in said(error)


def valid(body: Mapping[str, Any]) -> tuple[bool | None, str]:
    """The condition `Valid` of a Cilium policy and what it says; None while it is absent, which is neither."""
    for each in (body.get("status") or {}).get("conditions") or []:
        if each.get("type") == "Valid" and each.get("status") in {"True", "False"}:
            return each["status"] == "True", str(each.get("message", ""))
    return None, ""


def condition_text(body: Mapping[str, Any]) -> str:
    """The whole condition, to tell a new one from the one before."""
    return str([each for each in (body.get("status") or {}).get("conditions") or [] if each.get("type") == "Valid"])
