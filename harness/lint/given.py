"""What a run of the linter knows: the policies, and where they are given the workloads with the model's answers about both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from msgspec import Struct

from harness.lint.containment import Containment, Identities, Symbolic
from harness.lint.coverage import Redundant, redundant
from harness.lint.policy import LintedPolicy
from harness.model.cluster import ClusterState
from harness.model.traffic import Direction
from harness.model.verdict import PolicyRef, RuleRef
from harness.policy.evaluate import Evaluator
from harness.policy.options import Options
from harness.policy.prefix import Prefix, parse_prefix
from harness.policy.repository import Repository
from harness.policy.rules import LabelSelector, Rule

USUAL_POD_RANGES = ("10.244.0.0/16", "10.42.0.0/16")
"""Where pods have their addresses unless somebody chose others: kubeadm with kind and Flannel, k3s."""
USUAL_SERVICE_RANGES = ("10.96.0.0/12", "10.43.0.0/16")
"""The same for services: kubeadm, k3s."""


class Ranges(Struct, frozen=True):
    """Addresses that CIDR rules never see. `stated`: by the user, so that wider rules are worth a word too."""

    pods: tuple[Prefix, ...]
    services: tuple[Prefix, ...]
    stated: bool


def usual_ranges() -> Ranges:
    """Where addresses of pods and services usually are."""
    return Ranges(tuple(map(parse_prefix, USUAL_POD_RANGES)), tuple(map(parse_prefix, USUAL_SERVICE_RANGES)), stated=False)


@dataclass(frozen=True)
class Given:
    """Everything that rules may look at. Without workloads (`state` None) the policies of one file are taken to be in force together;
    with workloads, all of them."""

    policies: tuple[LintedPolicy, ...]
    ranges: Ranges
    state: ClusterState | None = None
    options: Options = field(default_factory=Options)

    @cached_property
    def units(self) -> Mapping[int, Sequence[LintedPolicy]]:
        found: dict[int, list[LintedPolicy]] = {}
        for each in self.policies:
            found.setdefault(self.unit(each), []).append(each)
        return found

    def last_of_name(self, policy: LintedPolicy) -> LintedPolicy:
        """The last policy of the same file with the same kind, namespace and name: itself, or what replaces it."""
        return self._last_in_file[policy.unit, policy.ref]

    @cached_property
    def _last_in_file(self) -> Mapping[tuple[int, PolicyRef], LintedPolicy]:
        return {(each.unit, each.ref): each for each in self.policies}

    def unit(self, policy: LintedPolicy) -> int:
        return policy.unit if self.state is None else 0

    def together(self, policy: LintedPolicy) -> Sequence[LintedPolicy]:
        """The policies that are in force together with one, itself among them."""
        return self.units[self.unit(policy)]

    def rules(self, policy: LintedPolicy, direction: Direction) -> Sequence[Rule]:
        """The rules of a direction of all policies that are in force together with one."""
        return self._by_unit[self.unit(policy), direction]

    def allows(self, direction: Direction) -> Sequence[Rule]:
        """The allow rules of a direction of all policies given."""
        return self._allows[direction]

    @cached_property
    def _by_unit(self) -> Mapping[tuple[int, Direction], Sequence[Rule]]:
        return {
            (unit, direction): [rule for each in policies for rule in each.rules(direction)]
            for unit, policies in self.units.items()
            for direction in Direction
        }

    @cached_property
    def _allows(self) -> Mapping[Direction, Sequence[Rule]]:
        return {each: [rule for policy in self.policies for rule in policy.rules(each, deny=False)] for each in Direction}

    @cached_property
    def evaluator(self) -> Evaluator:
        """The model of the workloads under all policies given. Only where there are workloads."""
        if self.state is None:
            raise ValueError("no workloads are given")
        repository = Repository.empty(self.options).with_policies((), (each.parsed for each in self.policies))
        return Evaluator(self.state, repository)

    @cached_property
    def containment(self) -> Containment:
        """How one selector's peers are compared with another's."""
        return Symbolic() if self.state is None else Identities(self.evaluator.identities)

    @cached_property
    def resolved(self) -> Mapping[RuleRef, Rule]:
        """The rules with their services resolved. Only where there are workloads."""
        return {each.ref: each for each in self.evaluator.subjects.rules}

    @cached_property
    def clashes(self) -> Mapping[PolicyRef, tuple[str, str]]:
        """Policies whose rules cannot be merged: an endpoint that shows it, and Cilium's words. Only where there are workloads."""
        found: dict[PolicyRef, tuple[str, str]] = {}
        subjects = self.evaluator.subjects
        for subject in subjects.all():
            for direction in Direction:
                table = subjects.table(subject, direction)
                for ref in (each for each in table.selecting if str(each) in table.error):
                    found.setdefault(ref, (subject.name, table.error))
        return found

    def in_force(self, policy: LintedPolicy) -> bool:
        """Whether this is the version that counts: accepted, and the last of its name among those in force together."""
        return policy.parsed.accepted and self._last[self.unit(policy), policy.ref] is policy

    @cached_property
    def _last(self) -> Mapping[tuple[int, PolicyRef], LintedPolicy]:
        return {(self.unit(each), each.ref): each for each in self.policies if each.parsed.accepted}

    @cached_property
    def _redundant(self) -> Mapping[int, Mapping[RuleRef, Redundant]]:
        """By unit: every rule that decides nothing."""
        found: dict[int, dict[RuleRef, Redundant]] = {}
        for unit, policies in self.units.items():
            for direction in Direction:
                rules = [rule for each in policies if self.in_force(each) for rule in each.rules(direction) if self._selects(rule)]
                found.setdefault(unit, {}).update((each.rule.ref, each) for each in redundant(rules, self.containment))
        return found

    def _selects(self, rule: Rule) -> bool:
        """False for what selects nothing in the given workloads, which other rules tell."""
        if self.state is None or rule.node:
            return True
        select = self.evaluator.identities.select
        if not select(rule.subject).certain:
            return False
        return not rule.peers or any(
            select(each).certain | select(each).maybe or not isinstance(each, LabelSelector) for each in rule.peers
        )

    def of_policy(self, policy: LintedPolicy) -> Mapping[RuleRef, Redundant]:
        """The rules of one policy that decide nothing."""
        if not self.in_force(policy):
            return {}
        found = self._redundant[self.unit(policy)]
        return {each.ref: found[each.ref] for each in policy.parsed.rules if each.ref in found}

    def idle(self, policy: LintedPolicy) -> bool:
        """Whether rules of other policies make every rule of a policy decide nothing."""
        mine = self.of_policy(policy)
        return bool(mine) and len(mine) == len(policy.parsed.rules) and all(each.by.ref.policy != policy.ref for each in mine.values())
