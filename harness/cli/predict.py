"""`harness predict`: what Cilium would decide, without a cluster. Answers questions about manifests, or scenarios as JSON lines."""

from __future__ import annotations

import gc
import json
import re
import sys
from collections.abc import Callable
from typing import IO, Any

import click
from msgspec.structs import replace

from harness.errors import UsageError
from harness.model.cluster import LOCAL_CLUSTER
from harness.policy.options import DEFAULT_CILIUM, ENFORCEMENT_MODES, SUPPORTED, Options

MALFORMED = 2
"""The exit code if any scenario or flow could not be read. The stream has gone on, and says which."""


_ARROW = re.compile(r"->|\s(=>|→|>)\s")
"""What makes a word a question and no file's name, arrows of other kinds included: the grammar says which is right."""


@click.command(name="predict")
@click.option(
    "--scenarios",
    type=click.File("r", encoding="utf-8", lazy=False),
    metavar="FILE",
    help="JSON lines, each a cluster with policies and flows; - reads standard input.",
)
@click.option("-f", "--workloads", multiple=True, metavar="FILE", help="Workload manifests: a file, a folder, or -. May be repeated.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "wide", "json", "dot", "svg"]),
    default="table",
    help="wide: every name, and the rules that decided; json: for programs; dot, svg: the reachability as a graph, as a picture.",
)
@click.option("--port", "ports", multiple=True, metavar="PORT[/PROTOCOL]", help="A port of everyone, in the table. May be repeated.")
@click.option("--flows-from", metavar="FILE", help="Try policies on flows that `hubble observe -o json` saved; - reads standard input.")
@click.option("--cilium-version", metavar="VERSION", help=f"{', '.join(SUPPORTED)}; a patch level may follow.  [default: {DEFAULT_CILIUM}]")
@click.option("--enforcement", type=click.Choice(ENFORCEMENT_MODES), help="policyEnforcementMode of the agents.  [default: default]")
@click.option("--host-firewall", is_flag=True, help="The agents enforce policies that select nodes.")
@click.option("--cluster-name", metavar="NAME", help="The cluster's name in Cilium.  [default: default]")
@click.argument("asked", nargs=-1, metavar="[POLICY | 'A -> B:PORT']...")
def predict(
    scenarios: IO[str] | None,
    workloads: tuple[str, ...],
    output: str,
    ports: tuple[str, ...],
    flows_from: str | None,
    cilium_version: str | None,
    enforcement: str | None,
    cluster_name: str | None,
    asked: tuple[str, ...],
    *,
    host_firewall: bool,
) -> None:
    """Predict the verdicts of flows under policies, exactly as Cilium decides.

    With policy files (or folders, or -), workloads and questions such as 'shop/web -> shop/api:8080 GET /admin', a line answers each flow.
    Questions are written as the expectations of cases: 'any -> service/shop/api:80', 'shop/web -> world:443', 'shop/web -> kube-dns lookup
    api.example.com', 'host -> shop/api icmp', 'shop/web -> 192.0.2.1:443 tls api.example.com'. Without a question, a table of who reaches whom, on the
    ports that pods declare.

    With --flows-from, the policies are tried on recorded flows, from any cluster: a line for each flow that would be decided otherwise than it
    was, and exit code 1 if there is one.

    With --scenarios, every line in is a JSON object with namespaces, pods, externals, policies, options and flows; every line out has its id, the
    policies that would be refused (policy_errors) and a verdict for each flow. A malformed scenario answers {"id", "error"}, a
    malformed flow {"error"} in its place; the stream goes on, and the exit code is 2 at the end.

    Exit codes: 0: all that was asked is allowed, or the table is printed; 1: a flow that was asked about is denied, or not known; 2: something could
    not be read.
    """
    if scenarios is not None:
        given_options = (cilium_version, enforcement, cluster_name)
        if (
            asked
            or workloads
            or ports
            or flows_from
            or host_firewall
            or output != "table"
            or any(each is not None for each in given_options)
        ):
            raise click.UsageError("--scenarios hold their own policies, workloads, flows and options, and are answered as JSON")
        _stream(scenarios)
        return
    options = replace(_options(cilium_version, enforcement, cluster_name), host_firewall=host_firewall)
    if flows_from is not None:
        from harness.cli.replay import replay

        if workloads or ports or any(map(_ARROW.search, asked)):
            raise click.UsageError("--flows-from has flows and workloads of its own: give it policies, and nothing else")
        if output not in ("table", "json"):
            raise click.UsageError("flows are answered one by one: -o is json or nothing")
        raise SystemExit(replay(asked, flows_from, options, as_json=output == "json"))
    # Imported here: the stream needs no YAML.
    from harness.cli.answer import answer, reachability
    from harness.cli.ask import manifest_files, read_manifest
    from harness.cli.given import given

    questions = [each for each in asked if _ARROW.search(each)]
    files = dict.fromkeys(manifest_files([*(each for each in asked if not _ARROW.search(each)), *workloads]))
    found = given((read_manifest(file) for file in files), options)
    if questions:
        if output in ("dot", "svg") or ports:
            raise click.UsageError("-o dot, -o svg and --port are for the table of who reaches whom: leave out the questions")
        raise SystemExit(answer(found, questions, output))
    reachability(found, output, ports)


def _options(cilium: str | None, enforcement: str | None, cluster_name: str | None) -> Options:
    try:
        return Options.of(cilium or DEFAULT_CILIUM, enforcement=enforcement or "default", cluster_name=cluster_name or LOCAL_CLUSTER)
    except UsageError as error:
        from harness.policy.scenario import one_line

        raise UsageError(one_line(error)) from None


def _stream(scenarios: IO[str]) -> None:
    # Imported here: a question about manifests needs no scenarios.
    from harness.policy.scenario import run_scenario

    # Scenarios are garbage in whole once answered, without cycles worth looking for every 700 objects.
    gc.set_threshold(200_000, 50, 50)
    clean = True
    for line in scenarios:
        if not line.strip():
            continue
        answer, good = _answer(line, run_scenario)
        clean = clean and good
        sys.stdout.write(json.dumps(answer, separators=(",", ":")))
        sys.stdout.write("\n")
        sys.stdout.flush()
    if not clean:
        raise SystemExit(MALFORMED)


def _answer(line: str, run: Callable[[Any], tuple[Any, bool]]) -> tuple[Any, bool]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {"id": None, "error": f"not a JSON object: {error}"}, False
    return run(document)
