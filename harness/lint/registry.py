"""The rules by id. A rule is a check, and the words and examples that the documentation and the tests are made of."""

from __future__ import annotations

import importlib
import pkgutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from inspect import getdoc
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from harness.errors import UsageError
from harness.lint.finding import Remark, Severity

if TYPE_CHECKING:
    from harness.lint.given import Given
    from harness.lint.policy import LintedPolicy

Check: TypeAlias = "Callable[[LintedPolicy, Given], Iterator[Remark]]"
"""What a rule has to say about one policy, among all that are given."""


class LintRule(Struct, frozen=True):
    """One rule. `bad` and `good` are manifests, or the spec of a CiliumNetworkPolicy that selects app=web in the namespace shop."""

    id: str
    name: str
    severity: Severity
    paragraph: str
    """What it finds and why that matters: the check's docstring."""
    bad: str
    good: str
    workloads: str
    """Manifests that both examples are linted with. Not empty: the rule runs only where workloads are given."""
    check: Check

    @property
    def needs_workloads(self) -> bool:
        return bool(self.workloads)

    @property
    def family(self) -> str:
        """The module it stands in."""
        return self.check.__module__.rpartition(".")[2]


_RULES: dict[str, LintRule] = {}


def rule(id_: str, name: str, severity: Severity, *, bad: str, good: str, workloads: str = "") -> Callable[[Check], Check]:
    """Registers a check. Its docstring is the rule's paragraph in the documentation."""

    def register(check: Check) -> Check:
        if id_ in _RULES:
            raise ValueError(f"{id_} is taken by {_RULES[id_].name}")
        paragraph = " ".join((getdoc(check) or "").split())
        _RULES[id_] = LintRule(id_, name, severity, paragraph, _dedented(bad), _dedented(good), _dedented(workloads), check)
        return check

    return register


def _dedented(text: str) -> str:
    return textwrap.dedent(text).strip("\n") + "\n" if text else ""


@cache
def all_rules() -> Mapping[str, LintRule]:
    """Every rule, in the order of ids."""
    package = importlib.import_module("harness.lint.rules")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_RULES.items()))


def chosen(select: tuple[str, ...] = (), ignore: tuple[str, ...] = ()) -> list[LintRule]:
    """The rules that are selected (all by default) and not ignored, by id, name or the beginning of ids (`HL1`). UsageError for what is none."""
    rules = all_rules().values()

    def named(words: tuple[str, ...]) -> set[str]:
        found: set[str] = set()
        for word in words:
            matching = {each.id for each in rules if each.name == word or each.id.startswith(word.upper())}
            if not matching or not word:
                raise UsageError(f"there is no rule {word!r}", hint="`harness lint --rules` lists them; HL1 means all that begin so")
            found |= matching
        return found

    wanted = named(select) if select else set(all_rules())
    unwanted = named(ignore)
    return [each for each in rules if each.id in wanted - unwanted]
