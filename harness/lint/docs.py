"""docs/lint.md, made of the rules: a table, and for each rule its paragraph and examples."""

from __future__ import annotations

from collections.abc import Mapping

from harness.lint.registry import LintRule, all_rules

_FAMILIES: Mapping[str, str] = {
    "objects": "Objects that a cluster refuses, or reads otherwise",
    "defaults": "Default deny",
    "peers": "Peers and subjects",
    "ports": "Ports, protocols and settings",
    "http": "HTTP and other L7 rules",
    "names": "DNS and names",
    "redundancy": "Rules that decide nothing",
    "workloads": "With workloads",
}
_HEAD = """\
# harness lint

Finds what is suspicious in CiliumNetworkPolicies, CiliumClusterwideNetworkPolicies and Kubernetes NetworkPolicies: what a cluster refuses, what it reads
otherwise than it is written, and what decides nothing. Reads files only; needs no cluster.

    harness lint policies/                           # files and folders; other objects in them are passed over
    harness lint policies/ -f workloads/             # also what only the workloads tell (HL7..), and HL6.. across files
    harness lint policies/ --select HL1,refused      # these rules only: ids, names, or how ids begin
    harness lint policies/ --ignore HL103
    harness lint policies/ --fix                     # corrects what changes no verdict
    harness lint policies/ -o sarif > lint.sarif     # text, json, sarif or github

| exit code | |
|---|---|
| 0 | nothing found, or only what is `info` |
| 1 | an error or a warning was found |
| 2 | something could not be read; the rest was linted all the same |

**Without workloads, policies of one file are taken to be in force together; with `-f`, all that are given.** What would excuse a policy (a DNS rule, an
allow rule beside a deny) counts wherever it is among the files. Rules about redundancy (HL6..) are proven, not guessed: removing what they tell changes no
verdict, in any cluster or with `-f` in one that runs these workloads; where an L7 rule or authentication has a say they say nothing.

## Silencing a rule

    - fromEndpoints: [{}]  # harness: ignore[HL103]

Behind a line, a comment is about that line; on a line of its own, about what begins on the next one: a key or an item with all below it, or
before the first line of a document the whole document. Several ids are told apart by commas. A comment that silences nothing is a finding too (HL005).

## pre-commit

    - repo: <this repository>
      hooks: [{id: harness-lint}]
"""


def page() -> str:
    """The whole page."""
    rules = list(all_rules().values())
    parts = [_HEAD, "## Rules\n", "| id | name | severity | |", "|---|---|---|---|"]
    parts += [f"| [{each.id}](#{_anchor(each)}) | {each.name} | {each.severity.value} | {_notes(each)} |" for each in rules]
    family = ""
    for each in rules:
        if each.family != family:
            family = each.family
            parts.append(f"\n## {_FAMILIES[family]}")
        parts.append(_section(each))
    return "\n".join(parts)


def _notes(rule: LintRule) -> str:
    return "needs `-f`" if rule.needs_workloads else ""


def _anchor(rule: LintRule) -> str:
    return f"{rule.id}-{rule.name}".lower()


def _section(rule: LintRule) -> str:
    needs = " Needs workloads (`-f`)." if rule.needs_workloads else ""
    return f"\n### {rule.id} {rule.name}\n\n{rule.paragraph}{needs}\n\nBad:\n\n```yaml\n{rule.bad}```\n\nGood:\n\n```yaml\n{rule.good}```"
