"""Policies by name: `[Kind/][namespace/]name` among those in force, and how a phase changes what is in force."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from harness.cases.case import PolicyObject
from harness.cases.document import Text
from harness.cases.manifests import CCNP, POLICY_KINDS
from harness.cases.suggest import closest, did_you_mean
from harness.model.verdict import PolicyRef


class PolicyName(Struct, frozen=True):
    """A policy as people name it. None: not said."""

    name: str
    namespace: str | None = None
    kind: str | None = None

    @classmethod
    def parse(cls, text: str) -> PolicyName:
        """`name`, `namespace/name`, `Kind/name` or `Kind/namespace/name` (of a cluster-wide one also `Kind//name`)."""
        *before, name = text.split("/")
        if len(before) == 2:
            return cls(name, before[1] or None, before[0] or None)
        if len(before) == 1 and before[0] in POLICY_KINDS:
            return cls(name, None, before[0])
        return cls(name, "/".join(before) or None)

    def matches(self, ref: PolicyRef) -> bool:
        return ref.name == self.name and self.namespace in (None, ref.namespace) and self.kind in (None, ref.kind)


def find_policy(text: Text, among: Iterable[PolicyRef], *, where: str, elsewhere: Mapping[PolicyRef, str] | None = None) -> PolicyRef:
    """The one policy that the text names. `where` is what `among` is, for messages; `elsewhere` says of other policies of the case
    where they are. Raises where there is none, or more than one."""
    refs = list(dict.fromkeys(among))
    name = PolicyName.parse(text)
    found = [ref for ref in refs if name.matches(ref)]
    if len(found) == 1:
        return found[0]
    if found:
        choices = ", ".join(f"`{_short(ref, found)}`" for ref in found)
        raise text.error(f"`{text}` could be {len(found)} policies", hint=f"write one of {choices}")
    if name.kind is not None and name.kind not in POLICY_KINDS:
        raise text.error(f"unknown kind `{name.kind}`", hint=did_you_mean(name.kind, POLICY_KINDS, noun="supported"))
    for ref, what in (elsewhere or {}).items():
        if name.matches(ref):
            raise text.error(f"policy `{text}` is not {where}", hint=what)
    words = {_short(ref, refs): ref for ref in refs}
    match = closest(text, words) or closest(name.name, (ref.name for ref in refs))
    hint = f"did you mean `{match}`?" if match else f"{where}: {', '.join(words)}" if words else f"no policy is {where}"
    raise text.error(f"policy `{text}` is not {where}", hint=hint)


def _short(ref: PolicyRef, among: Sequence[PolicyRef]) -> str:
    """The shortest name that tells it from the others."""
    full = f"{ref.kind}/{ref.name}" if ref.kind == CCNP else f"{ref.kind}/{ref.namespace}/{ref.name}"
    for text in (ref.name, f"{ref.namespace}/{ref.name}", f"{ref.kind}/{ref.name}"):
        if not text.startswith("/") and sum(PolicyName.parse(text).matches(each) for each in among) == 1:
            return text
    return full


class InForce(Struct, frozen=True):
    """The policies in force, in order of first application. Immutable."""

    policies: Mapping[PolicyRef, PolicyObject]

    @classmethod
    def nothing(cls) -> InForce:
        return cls({})

    def change(self, remove: Iterable[PolicyRef], apply: Iterable[PolicyObject]) -> InForce:
        """What is in force after removals, then applications; the same kind, namespace and name replaces."""
        policies = dict(self.policies)
        for ref in remove:
            del policies[ref]
        for policy in apply:
            policies[policy.ref] = policy
        return InForce(policies)
