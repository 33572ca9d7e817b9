"""Answers of `harness predict` about manifests: a line for each flow that was asked about, or who reaches whom."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

import click

from harness.cli.given import Given
from harness.cli.question import Asked, Questions
from harness.errors import UsageError
from harness.model.traffic import Protocol
from harness.model.verdict import DirectionVerdict, PolicyVerdict, Verdict
from harness.policy.evaluate import Evaluator

_COLOURS = {Verdict.ALLOW: "green", Verdict.DENY: "red", Verdict.UNKNOWN: "magenta", Verdict.ERROR: "magenta"}
_PORT = re.compile(r"(?P<port>\d{1,5})(?:/(?P<protocol>tcp|udp|sctp))?", re.IGNORECASE)


def answer(found: Given, questions: Sequence[str], form: str) -> int:
    """Print a line for each flow that the questions mean. The exit code: 1 if any is not allowed. UsageError for what cannot be asked."""
    asking = Questions(found.state, found.prefixes)
    asked = [each for text in questions for each in asking.read(text)]
    evaluator = Evaluator(asking.state, found.repository, asking.learned)
    _warn(found)
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    denied = False
    for each in asked:
        verdict = evaluator.verdict(each.traffic)
        denied = denied or verdict.verdict is not Verdict.ALLOW
        if form == "json":
            click.echo(json.dumps({"flow": each.text, "verdict": verdict.verdict, **_sides(verdict), "l7": verdict.l7}))
        else:
            click.echo(_line(each, verdict), color=colour)
            if form == "wide":
                click.echo("".join(f"  {name}: {_rules(side)}\n" for name, side in _both(verdict)), nl=False)
    return int(denied)


def _line(asked: Asked, verdict: PolicyVerdict) -> str:
    sides = f"egress {verdict.egress.decision}, ingress {verdict.ingress.decision}, L7 {verdict.l7}"
    return f"{click.style(verdict.verdict, fg=_COLOURS[verdict.verdict])}: {asked.text} ({sides})"


def _rules(side: DirectionVerdict) -> str:
    if side.rules:
        return f"{side.decision} by {', '.join(map(str, side.rules))}"
    return (
        f"{side.decision}, selected by {', '.join(map(str, side.selecting))}"
        if side.selecting
        else f"{side.decision}, no policy selects it"
    )


def _both(verdict: PolicyVerdict) -> tuple[tuple[str, DirectionVerdict], ...]:
    return ("egress", verdict.egress), ("ingress", verdict.ingress)


def _sides(verdict: PolicyVerdict) -> dict[str, Any]:
    return {
        name: {"decision": side.decision, "rules": [str(rule) for rule in side.rules], "policies": [str(ref) for ref in side.selecting]}
        for name, side in _both(verdict)
    }


def reachability(found: Given, form: str, ports: Sequence[str]) -> None:
    """Print who reaches whom on the ports that pods declare, and on `ports`. UsageError where there is nothing to print."""
    extra = [_port(each) for each in ports]
    state = found.state
    if not state.pods:
        raise UsageError("ask something, as in 'shop/web -> shop/api:8080', or give workloads with -f")
    if not extra and not any(pod.ports for pod in state.pods):
        raise UsageError(
            "no workload declares a port: nothing to print", hint="name one: --port 8080, or ask, as in 'shop/web -> shop/api:8080'"
        )
    # Imported here: one question needs neither numpy nor rich.
    from harness.cli.matrix.rows import matrix

    _warn(found)
    made = matrix(found.evaluator, Questions(state, found.prefixes).world, extra)
    if form == "dot":
        from harness.cli.matrix.graph import dot

        click.echo(dot(made))
    elif form == "svg":
        from harness.cli.matrix.picture import svg

        click.echo(svg(made))
    else:
        from harness.cli.matrix.show import as_json, table

        click.echo(as_json(made) if form == "json" else table(made, wide=form == "wide"), color=sys.stdout.isatty())


def _port(text: str) -> tuple[Protocol, int]:
    match = _PORT.fullmatch(text)
    if match is None or not 1 <= int(match["port"]) <= 65535:
        raise UsageError(f"{text!r} is no port", hint="as in --port 8080, --port 53/udp")
    return Protocol((match["protocol"] or "tcp").upper()), int(match["port"])


def _warn(found: Given) -> None:
    for line in found.warnings():
        click.echo(line, err=True)
