"""`harness predict`: what Cilium would decide, without a cluster. Answers questions about manifests, or scenarios as JSON lines."""

from __future__ import annotations

import gc
import json
import sys
from typing import IO, Any

import click

from harness.model.verdict import PolicyVerdict, Verdict
from harness.policy.scenario import run_scenario

MALFORMED = 2
"""The exit code if any scenario or flow could not be read. The stream has gone on, and says which."""


@click.command(name="predict")
@click.option(
    "--scenarios",
    type=click.File("r", encoding="utf-8", lazy=False),
    metavar="FILE",
    help="JSON lines, each a cluster with policies and flows; - reads standard input.",
)
@click.option("-f", "--workloads", multiple=True, metavar="FILE", help="Workload manifests: a file, a folder, or -. May be repeated.")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json: one object a line, with the rules that decided."
)
@click.option("--flows-from", metavar="FILE", help="Try policies on flows that `hubble observe -o json` saved; - reads standard input.")
@click.argument("asked", nargs=-1, metavar="[POLICY | 'A -> B:PORT']...")
def predict(scenarios: IO[str] | None, workloads: tuple[str, ...], output: str, flows_from: str | None, asked: tuple[str, ...]) -> None:
    """Predict the verdicts of flows under policies, exactly as Cilium decides.

    With policy files (or folders, or -), workloads and questions such as 'shop/web -> shop/api:8080 GET /admin', one line answers
    each question; without a question, a line for each pair of workloads and each port that the target declares. Exit code 0: all is allowed; 1: something is not; 2: something could not be read.

    With --flows-from, the policies are tried on recorded flows, from any cluster: a line for each flow that would be decided otherwise than it
    was, and exit code 1 if there is one.

    With --scenarios, every line in is a JSON object with namespaces, pods, externals, policies, options and flows; every line out has its id, the
    policies that would be refused (policy_errors) and a verdict for each flow. A malformed scenario answers {"id", "error"}, a
    malformed flow {"error"} in its place; the stream goes on, and the exit code is 2 at the end.
    """
    if flows_from is not None:
        from harness.cli.replay import replay

        if scenarios is not None or workloads or any("->" in each for each in asked):
            raise click.UsageError("--flows-from has flows and workloads of its own: give it policies, and nothing else")
        raise SystemExit(replay(asked, flows_from, as_json=output == "json"))
    if scenarios is None:
        raise SystemExit(_ask(asked, workloads, as_json=output == "json"))
    if asked or workloads or output != "text":
        raise click.UsageError("--scenarios hold their own policies, workloads and flows, and are answered as JSON")
    # Scenarios are garbage in whole once answered, without cycles worth looking for every 700 objects.
    gc.set_threshold(200_000, 50, 50)
    clean = True
    for line in scenarios:
        if not line.strip():
            continue
        answer, good = _answer(line)
        clean = clean and good
        sys.stdout.write(json.dumps(answer, separators=(",", ":")))
        sys.stdout.write("\n")
        sys.stdout.flush()
    if not clean:
        raise SystemExit(MALFORMED)


def _ask(asked: tuple[str, ...], workloads: tuple[str, ...], *, as_json: bool) -> int:
    # Imported here: the stream needs no YAML.
    from harness.cli.ask import load, pairs, parse_question

    questions = [(each, parse_question(each)) for each in asked if "->" in each]
    policies = [each for each in asked if "->" not in each]
    if not questions and not workloads:
        load(policies, ())  # a file that is missing or wrong is the first thing to say
        raise click.UsageError("ask something, as in 'shop/web -> shop/api:8080', give workloads with -f, or --scenarios")
    evaluator = load(policies, workloads)
    questions = questions or list(pairs(evaluator.state))
    if not questions:
        raise click.UsageError("no two workloads of which one declares a port: nothing to answer. Ask, as in 'shop/web -> shop/api:8080'")
    for ref, error in evaluator.repository.errors.items():
        click.echo(f"warning: {ref} is refused, nothing of it is enforced: {error}", err=True)
    denied = False
    for text, traffic in questions:
        verdict = evaluator.verdict(traffic)
        denied = denied or verdict.verdict is not Verdict.ALLOW
        if as_json:
            click.echo(json.dumps({"flow": text.strip(), "verdict": verdict.verdict, **_sides(verdict), "l7": verdict.l7}))
            continue
        sides = f"egress {verdict.egress.decision}, ingress {verdict.ingress.decision}, L7 {verdict.l7}"
        click.echo(f"{verdict.verdict}: {text.strip()} ({sides})")
    return int(denied)


def _sides(verdict: PolicyVerdict) -> dict[str, Any]:
    return {
        name: {"decision": side.decision, "rules": [str(rule) for rule in side.rules], "policies": [str(ref) for ref in side.selecting]}
        for name, side in (("egress", verdict.egress), ("ingress", verdict.ingress))
    }


def _answer(line: str) -> tuple[Any, bool]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {"id": None, "error": f"not a JSON object: {error}"}, False
    return run_scenario(document)
