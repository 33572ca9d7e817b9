"""The policies in force, as a value: a change gives a new repository. What is refused is kept aside with its reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from msgspec import Struct, field

from harness.model.verdict import PolicyError, PolicyRef
from harness.policy.options import Options
from harness.policy.parse import parse_policy
from harness.policy.prefix import Prefix
from harness.policy.rules import CIDRGroupSelector, CIDRSelector, Policy


class Repository(Struct, frozen=True):
    """`enforced` are the accepted policies in order of first application. `errors` are the refused ones; where an update was
    refused, its reference is in both: the earlier version stays enforced.

    `numbers` keeps the identity numbers' offsets of all prefixes that policies ever named, so that a change renumbers nothing.
    """

    options: Options
    enforced: tuple[Policy, ...] = ()
    errors: Mapping[PolicyRef, PolicyError] = field(default_factory=lambda: MappingProxyType({}))
    numbers: Mapping[Prefix, int] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def empty(cls, options: Options | None = None) -> Repository:
        return cls(options or Options())

    def change(self, remove: Sequence[PolicyRef] = (), apply: Sequence[Mapping[str, Any]] = ()) -> Repository:
        """After removing policies and then applying documents in order. Removing what is not there is no error."""
        return self.with_policies(remove, (parse_policy(document, self.options) for document in apply))

    def with_policies(self, remove: Sequence[PolicyRef], apply: Iterable[Policy]) -> Repository:
        """As `change`, with policies that are parsed already (with this repository's options)."""
        enforced = {policy.ref: policy for policy in self.enforced}
        errors = dict(self.errors)
        numbers = dict(self.numbers)
        for ref in remove:
            enforced.pop(ref, None)
            errors.pop(ref, None)
        for policy in apply:
            if policy.error is not None:
                errors[policy.ref] = policy.error
                continue
            errors.pop(policy.ref, None)
            enforced[policy.ref] = policy
            for prefix in prefixes_of(policy):
                numbers.setdefault(prefix, len(numbers))
        return Repository(self.options, tuple(enforced.values()), MappingProxyType(errors), MappingProxyType(numbers))

    def policy(self, ref: PolicyRef) -> Policy | None:
        """The version in force, or None."""
        return next((policy for policy in self.enforced if policy.ref == ref), None)


def prefixes_of(policy: Policy) -> Iterable[Prefix]:
    """Every prefix that the policy's peers name, exceptions included: each gets an identity of its own."""
    for rule in policy.rules:
        for peer in rule.peers or ():
            if isinstance(peer, CIDRSelector):
                yield peer.prefix
                yield from peer.excepts
            elif isinstance(peer, CIDRGroupSelector):
                yield from peer.excepts
