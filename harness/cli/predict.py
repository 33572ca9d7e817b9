"""`harness predict`: what Cilium would decide, without a cluster. Reads scenarios as JSON lines and writes one JSON line for each."""

from __future__ import annotations

import gc
import json
import sys
from typing import IO, Any

import click

from harness.policy.scenario import run_scenario

MALFORMED = 2
"""The exit code if any scenario or flow could not be read. The stream has gone on, and says which."""


@click.command(name="predict")
@click.option(
    "--scenarios",
    type=click.File("r", encoding="utf-8", lazy=False),
    required=True,
    metavar="FILE",
    help="JSON lines, each a cluster with policies and flows; - reads standard input.",
)
def predict(scenarios: IO[str]) -> None:
    """Predict the verdicts of flows under policies, exactly as Cilium decides.

    Every line in is a JSON object with namespaces, pods, externals, policies, options and flows; every line out has its id, the
    policies that would be refused (policy_errors) and a verdict for each flow. A malformed scenario answers {"id", "error"}, a
    malformed flow {"error"} in its place; the stream goes on, and the exit code is 2 at the end.
    """
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


def _answer(line: str) -> tuple[Any, bool]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {"id": None, "error": f"not a JSON object: {error}"}, False
    return run_scenario(document)
