"""`harness sweep`: lists what runs that were killed left on a Kubernetes cluster, and removes it. Touches nothing of a run that lives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.clusters.kubernetes.sweep import Run

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.command()
@click.option("--kube-context", metavar="NAME", help="The kubeconfig context (default: the current one).")
@click.option(
    "--older-than",
    metavar="AGE",
    help="Only runs begun at least so long ago: 30m, 1h, 2d. Runs of whose life nothing tells: by default 1h.",
)
@click.option("--yes", is_flag=True, help="Remove what is listed.")
def sweep(kube_context: str | None, older_than: str | None, *, yes: bool) -> None:
    """List what killed runs left on a cluster, and with --yes remove it.

    A run that lives is left alone. Exit code 0: there is nothing, or it was removed; 1: there is something; 2: it could not be found out.
    """
    least = _age(older_than) if older_than is not None else None

    from harness.clusters.kubernetes import sweep as sweeping
    from harness.clusters.kubernetes.client import Api

    api = Api.connect(kube_context)
    found = sweeping.survey(api)
    now = sweeping.now()
    orphans = [run for run in found.runs if run.is_orphaned(now, least)]
    for run in orphans:
        click.echo("\n".join(_lines(run, now)))
    for why in found.unseen:
        click.echo(f"not looked at: {why}", err=True)
    if left_alone := [run for run in found.runs if run not in orphans]:
        click.echo("left alone: " + "; ".join(f"run {run.id}, {_life(run, now)}" for run in left_alone))
    count = sum(len(run.leftovers) for run in orphans)
    if not orphans:
        click.echo(f"nothing to sweep on {api.context}")
        return
    what = f"{count} object{'s' * (count > 1)} of {len(orphans)} dead run{'s' * (len(orphans) > 1)} on {api.context}"
    if not yes:
        click.echo(f"{what}; --yes removes {'them' if count > 1 else 'it'}")
        raise SystemExit(1)
    going = sweeping.sweep(api, orphans)
    click.echo(f"removed {what}" + (f"; still going: {', '.join(map(str, going))}" if going else ""))


def _lines(run: Run, now: datetime) -> Iterator[str]:
    yield f"run {run.id}, {_span(now - run.created)} old, {_life(run, now)}"
    for each in run.leftovers:
        yield f"    {each}" + (f"  ({each.case})" if each.case else "")


def _life(run: Run, now: datetime) -> str:
    if run.here is not None:
        return "lives on this machine" if run.here else "dead: none of its processes is left on this machine"
    if run.sign is None:
        return "has no lease"
    ago = f"its lease was renewed {_span(now - run.sign.renewed)} ago from {run.sign.host or 'an unnamed host'}"
    return f"lives: {ago}" if run.sign.lives(now) else f"dead: {ago}"


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"(\d+)([smhd]?)", text.strip())
    if match is None or (match[2] == "" and int(match[1])):
        raise UsageError(f"--older-than: {text!r} is no age", hint="a number with s, m, h or d, such as 30m, 1h or 2d")
    return timedelta(seconds=int(match[1]) * _SECONDS.get(match[2], 0))


def _span(span: timedelta) -> str:
    seconds = max(0, int(span.total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
