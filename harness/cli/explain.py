"""`harness explain`: why policy allows or denies one flow. Reads files, prints an account."""

from __future__ import annotations

import os
import sys

import click

from harness.cli.ask import manifest_files, parse_question, read_manifest
from harness.cli.given import Given, given, known_pod, lines_of
from harness.errors import UsageError
from harness.explain.account import explain as account_of
from harness.explain.text import Where, as_json, text
from harness.model.traffic import PodRef
from harness.model.verdict import PolicyRef, RuleRef, Verdict
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
    traffic = parse_question(flow)
    found = given((read_manifest(file) for file in dict.fromkeys(manifest_files(files))), Options.of(cilium_version))
    for peer in (traffic.source, traffic.destination):
        if isinstance(peer, PodRef) and (hint := known_pod(found.state, peer)) is not None:
            raise UsageError(f"there is no pod {peer}", hint=hint)
    for ref, error in found.repository.errors.items():
        place = found.place(ref)
        click.echo(f"warning: {f'{place.location}: ' if place else ''}{ref} is refused, nothing of it is enforced: {error}", err=True)
    account = account_of(found.evaluator, traffic)
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
