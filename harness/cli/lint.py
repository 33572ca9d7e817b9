"""`harness lint`: what is suspicious in policies. Reads files, tells findings, and with --fix writes files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click

from harness.cases.source import Source
from harness.cli.ask import manifest_files, read_manifest, read_state
from harness.errors import HarnessError, UsageError
from harness.lint import output
from harness.lint.finding import Finding, Severity
from harness.lint.fix import fixed
from harness.lint.given import USUAL_POD_RANGES, USUAL_SERVICE_RANGES, Given, Ranges
from harness.lint.policy import LintedPolicy, policies_of
from harness.lint.registry import LintRule, all_rules, chosen
from harness.lint.run import lint as run_rules
from harness.lint.sarif import sarif
from harness.model.cluster import ClusterState
from harness.policy.options import DEFAULT_CILIUM, Options
from harness.policy.prefix import Prefix, parse_prefix


@click.command(name="lint")
@click.argument("paths", nargs=-1, metavar="[POLICY]...")
@click.option("-f", "--workloads", multiple=True, metavar="FILE", help="Workload manifests: a file, a folder, or -. May be repeated.")
@click.option("--select", multiple=True, metavar="RULES", help="Only these: ids, names, or how ids begin (HL1), with commas.")
@click.option("--ignore", multiple=True, metavar="RULES", help="Not these.")
@click.option("-o", "--output", "form", type=click.Choice(["text", "json", "sarif", "github"]), default="text")
@click.option("--fix", is_flag=True, help="Correct what can be corrected without changing a verdict, and tell the rest.")
@click.option("--pod-cidr", multiple=True, metavar="CIDR", help="Where pods have their addresses. May be repeated.")
@click.option("--service-cidr", multiple=True, metavar="CIDR", help="Where services have theirs.")
@click.option("--cilium-version", default=DEFAULT_CILIUM, show_default=True, metavar="VERSION")
@click.option("--rules", "listing", is_flag=True, help="List the rules.")
@click.option("--docs", is_flag=True, hidden=True, help="Print docs/lint.md.")
def lint(
    paths: tuple[str, ...],
    workloads: tuple[str, ...],
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    form: str,
    *,
    fix: bool,
    pod_cidr: tuple[str, ...],
    service_cidr: tuple[str, ...],
    cilium_version: str,
    listing: bool,
    docs: bool,
) -> None:
    """Find what is suspicious in policies: refused, misread, without effect.

    Each POLICY is a file, a folder or -; objects that are no network policies are passed over. Exit code 0: nothing, or only what is info; 1:
    errors or warnings; 2: something could not be read. `# harness: ignore[ID]` silences a rule for a line, or for what begins on the next.
    """
    if docs:
        from harness.lint.docs import page

        click.echo(page())
        return
    if listing:
        click.echo("\n".join(f"{each.id}  {each.severity.value:7}  {each.name}" for each in all_rules().values()))
        return
    if not paths:
        raise click.UsageError("name policy files or folders, or - for standard input")
    rules = chosen(_words(select), _words(ignore))
    options = Options.of(cilium_version)
    state = read_state(workloads) if workloads else None
    ranges = _ranges(pod_cidr, service_cidr)
    sources, readable = _sources(paths)
    if fix:
        sources = _fixed(sources, rules, ranges, state, options)
    given, all_parsed = _given(sources, ranges, state, options)
    findings = run_rules(given, rules)
    click.echo(_told(form, findings, rules, len(given.policies)), color=None if "NO_COLOR" not in os.environ else False)
    if not (readable and all_parsed):
        raise SystemExit(2)
    raise SystemExit(int(any(each.severity is not Severity.INFO for each in findings)))


def _words(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(word.strip() for text in texts for word in text.split(","))


def _ranges(pods: Sequence[str], services: Sequence[str]) -> Ranges:
    def prefixes(texts: Sequence[str], option: str) -> tuple[Prefix, ...]:
        try:
            return tuple(map(parse_prefix, texts))
        except ValueError as error:
            raise UsageError(f"{option}: {error}", hint="as in 10.244.0.0/16") from None

    return Ranges(
        prefixes(pods or USUAL_POD_RANGES, "--pod-cidr"), prefixes(services or USUAL_SERVICE_RANGES, "--service-cidr"), stated=bool(pods)
    )


def _sources(paths: Sequence[str]) -> tuple[list[Source], bool]:
    """The files that can be read; False with them if some cannot, which has been said."""
    sources = []
    clean = True
    for file in dict.fromkeys(manifest_files(paths)):
        try:
            sources.append(read_manifest(file))
        except HarnessError as error:
            click.echo(f"error: {error}", err=True)
            clean = False
    return sources, clean


def _given(sources: Sequence[Source], ranges: Ranges, state: ClusterState | None, options: Options) -> tuple[Given, bool]:
    """What is in the files that parse; False with it if some do not, which has been said."""
    policies: list[LintedPolicy] = []
    clean = True
    for unit, source in enumerate(sources):
        try:
            policies += policies_of(source, unit, options)
        except HarnessError as error:
            click.echo(f"error: {error}", err=True)
            clean = False
    return Given(tuple(policies), ranges, state, options), clean


def _fixed(
    sources: Sequence[Source], rules: Sequence[LintRule], ranges: Ranges, state: ClusterState | None, options: Options
) -> list[Source]:
    """The sources after their edits, which have been written to their files."""
    readable = []
    for source in sources:
        try:
            list(policies_of(source, 0, options))
        except HarnessError:
            continue  # told when the rest is linted
        readable.append(source)
    given, _ = _given(readable, ranges, state, options)
    edits: dict[str, list[Finding]] = {}
    for finding in run_rules(given, rules):
        if finding.remark.edits and finding.file != "<stdin>":
            edits.setdefault(finding.file, []).append(finding)
    for file, findings in edits.items():
        path = Path(file)
        # Bytes in and out: line ends and a byte order mark stay as they are.
        raw = path.read_bytes().decode("utf-8")
        mark = "\ufeff" if raw.startswith("\ufeff") else ""
        text = fixed(raw.removeprefix(mark), [edit for each in findings for edit in each.remark.edits])
        path.write_bytes((mark + text).encode("utf-8"))
        click.echo(f"corrected {len(findings)} in {file}", err=True)
    return [read_manifest(each.file) if each.file in edits else each for each in sources]


def _told(form: str, findings: Sequence[Finding], rules: Sequence[LintRule], policies: int) -> str:
    match form:
        case "json":
            return output.as_json(findings)
        case "sarif":
            return sarif(findings, rules)
        case "github":
            return output.github(findings)
        case _:
            return output.text(findings, policies)
