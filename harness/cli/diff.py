"""`harness diff`: which flows a change of policies allows or denies. Reads files and git revisions, prints an account."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from harness.cases.source import Source
from harness.cli.ask import manifest_files, read_manifest
from harness.cli.given import Given, given
from harness.cli.revisions import Revision, in_repository, revision
from harness.diff.compare import compare
from harness.diff.naming import Naming
from harness.diff.peers import names_of
from harness.diff.report import Report
from harness.errors import UsageError
from harness.policy.evaluate import Evaluator
from harness.policy.options import DEFAULT_CILIUM, Options


@click.command(name="diff")
@click.argument("old")
@click.argument("new")
@click.option(
    "-p",
    "--path",
    "paths",
    multiple=True,
    metavar="PATH",
    help="OLD and NEW are git revisions: compare this path of them. May be repeated.",
)
@click.option(
    "-f", "--workloads", multiple=True, metavar="FILE", help="Workload manifests of both sides: a file, a folder, or -. May be repeated."
)
@click.option("-o", "--output", "form", type=click.Choice(["text", "markdown", "json"]), default="text")
@click.option("--cilium-version", default=DEFAULT_CILIUM, show_default=True, metavar="VERSION")
def diff(old: str, new: str, paths: tuple[str, ...], workloads: tuple[str, ...], form: str, cilium_version: str) -> None:
    """Tell which flows become allowed or denied when the policies OLD become NEW.

    Each is a file or a folder, or a path of a git revision, as in main:policies/. With -p both are revisions, as in 'harness diff main HEAD -p
    policies/ -f workloads/'. Exit code 0: nothing changes; 1: something does; 2: something could not be read.
    """
    if [old, new, *workloads].count("-") > 1:
        raise UsageError("standard input can be read only once", hint="leave one `-`")
    options = Options.of(cilium_version)
    common = [read_manifest(file) for file in dict.fromkeys(manifest_files(workloads))]
    before, after = (_side(sources, common, options) for sources in _sources(old, new, paths))
    names = names_of((before.repository, after.repository))
    was, now = (Evaluator(each.state, each.repository, names.learned) for each in (before, after))
    difference = compare(was, now, names.shown)
    if not difference.peers.pods:
        raise UsageError("there is no workload that both sides have", hint="give the workloads with -f: a diff is told between them")
    for side, found in ((old, before), (new, after)):
        for line in found.warnings():
            click.echo(f"{side}: {line}", err=True)
    report = Report(difference, Naming(difference.peers, now.state), old, new, tuple(after.warnings()))
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    told = report.as_json() if form == "json" else report.markdown() if form == "markdown" else report.text(colour=colour)
    click.echo(told, color=colour)
    raise SystemExit(int(bool(difference.changes)))


def _side(sources: Iterable[Source], common: Sequence[Source], options: Options) -> Given:
    found = given((*sources, *common), options)
    for policy in found.policies.values():
        if any(policy.name_place.source is each for each in common):
            raise policy.name_place.error(
                "this is a policy, and -f is for workloads", hint="policies are compared: they are in OLD and NEW"
            )
    return found


def _sources(old: str, new: str, paths: Sequence[str]) -> tuple[list[Source], list[Source]]:
    if not paths:
        return _named(old), _named(new)
    revisions = (_revision(old), _revision(new))
    found: tuple[dict[str, Source], dict[str, Source]] = ({}, {})
    for path in paths:
        inside = in_repository(path)
        both = [each.sources(inside) for each in revisions]
        for files, sources in zip(found, both, strict=True):
            files.update((each.file, each) for each in sources)
        if not any(both):
            raise UsageError(f"there is no manifest in {path}, in neither {old} nor {new}", hint="manifests end in .yaml, .yml or .json")
    return list(found[0].values()), list(found[1].values())


def _named(name: str) -> list[Source]:
    """What a file, a folder, `-` or REVISION:PATH holds."""
    if name == "-" or Path(name).exists():
        return [read_manifest(file) for file in manifest_files([name])]
    called, colon, path = name.partition(":")
    if not colon:
        if revision(name) is not None:
            raise UsageError(
                f"{name} is a revision, and a path is missing", hint=f"write {name}:PATH, or name the path of both with -p PATH"
            )
        raise UsageError(f"there is no file, folder or revision {name}")
    # As git reads it: from the top, unless it begins with a dot.
    found = _revision(called).sources(in_repository(path, from_top=not path.startswith(".")))
    if not found:
        raise UsageError(f"there is no manifest in {path or 'the repository'}, in {called}", hint="manifests end in .yaml, .yml or .json")
    return found


def _revision(name: str) -> Revision:
    found = revision(name)
    if found is None:
        raise UsageError(f"git knows no revision {name} here", hint="in CI, fetch it first (a shallow clone has one commit only)")
    return found
