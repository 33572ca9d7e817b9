"""`harness explain`: why policy allows or denies one flow. Reads files, prints an account."""

from __future__ import annotations

import os
import sys

import click

from harness.cli.ask import manifest_files, read_manifest
from harness.cli.given import Given, given, lines_of
from harness.cli.question import Questions
from harness.errors import UsageError
from harness.explain.account import explain as account_of
from harness.explain.text import Where, as_json, text
from harness.model.verdict import PolicyRef, RuleRef, Verdict
from harness.policy.evaluate import Evaluator
from harness.policy.options import DEFAULT_CILIUM, Options

_EXCERPT = 8
"""Lines of a rule that are shown."""


@click.command(name="explain")
@click.argument("flow", metavar="'A -> B:PORT [METHOD /path]'")
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    metavar="FILE",
    help="Policies and workloads: a file, a folder, or -. May be repeated.",
)
@click.option("-o", "--output", "form", type=click.Choice(["text", "json"]), default="text")
@click.option("--cilium-version", default=DEFAULT_CILIUM, show_default=True, metavar="VERSION")
def explain(flow: str, files: tuple[str, ...], form: str, cilium_version: str) -> None:
    """Explain why a flow is allowed or denied, as in 'shop/frontend -> shop/backend:8080 GET /admin'.

    Tells for each side which policies select the endpoint, which rule decides and where it is written, which rules almost match and the
    requirement that fails, and the smallest policy that would allow the flow. Exit code 0: allowed; 1: not; 2: something could not be read.
    """
    found = given((read_manifest(file) for file in dict.fromkeys(manifest_files(files))), Options.of(cilium_version))
    questions = Questions(found.state, found.prefixes)
    asked = questions.read(flow)
    if len(asked) > 1:
        raise UsageError(f"{flow!r} means {len(asked)} flows", hint="name one pod at each end")
    for line in found.warnings():
        click.echo(line, err=True)
    evaluator = Evaluator(questions.state, found.repository, questions.learned)
    account = account_of(evaluator, asked[0].traffic)
    where = _where(found)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    click.echo(as_json(account, where) if form == "json" else text(account, where, colour=colour), color=colour)
    raise SystemExit(int(account.verdict.verdict is not Verdict.ALLOW))


def _where(found: Given) -> Where:
    def place(ref: RuleRef | PolicyRef) -> str:
        at = found.place(ref)
        return f"{at.source.file}:{at.line}" if at else ""

    def excerpt(ref: RuleRef) -> tuple[str, ...]:
        at = found.place(ref)
        if at is None:
            return ()
        lines = lines_of(at)
        return (*lines[:_EXCERPT], *(("...",) if len(lines) > _EXCERPT else ()))

    return Where(place, excerpt)
