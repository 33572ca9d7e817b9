"""`harness lab exec`, `probe` and `check`: what can be tried in a lab."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from harness.cli.lab import text
from harness.cli.lab.options import output, show, which


@click.command(
    name="exec",
    short_help="Run a command in a pod's network, or a shell.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@which
@click.argument("place")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] [COMMAND...]")
def exec_(name: str | None, place: str, command: tuple[str, ...]) -> None:
    """Run a command of this machine in a pod's network; without one, a shell.

    PLACE is a pod (`frontend`, `shop/frontend`, `backend[1]`), `node/a`, `world` or `kube-apiserver`. Pods and services are known there by the
    names they have in a cluster. The exit code is the command's.
    """
    from harness.lab.calls import Caller
    from harness.lab.enter import run_inside
    from harness.lab.folder import find

    if command[:1] == ("--",):
        command = command[1:]
    caller = Caller(find(name))
    at = caller.call("enter", place=place)
    caller.hold()
    files = {Path(covered): Path(file) for covered, file in at["files"].items()}
    run_inside(at["process"], at["namespace"], command or _shell(), hostname=at["hostname"], files=files)


def _shell() -> Sequence[str]:
    import shutil

    return ("bash",) if shutil.which("bash") else ("sh",)


@click.command(short_help="Send real probes now: packets, flows, model.")
@which
@output
@click.argument("flows", nargs=-1, required=True, metavar="'A -> B:PORT'...")
def probe(name: str | None, output: str, flows: tuple[str, ...]) -> None:
    """Send real probes now: what packets and flows show, and what the model says.

    As in 'frontend -> backend:8080', 'frontend -> service/backend:80', 'any -> backend:8080 GET /admin', 'frontend -> backend icmp'. Exit code 0: all is allowed; 1: something is not.
    """
    _probes(name, "probe", flows, as_json=output == "json", good="allow", key="verdict")


@click.command(short_help="Hold expectations against what happens now.")
@which
@output
@click.argument("expectations", nargs=-1, required=True, metavar="'deny: A -> B:PORT'...")
def check(name: str | None, output: str, expectations: tuple[str, ...]) -> None:
    """Hold expectations, as a case states them, against what happens now.

    Exit code 0: all passed; 1: something failed, or is unknown.
    """
    _probes(name, "check", expectations, as_json=output == "json", good="passed", key="outcome")


def _probes(name: str | None, call: str, texts: Sequence[str], *, as_json: bool, good: str, key: str) -> None:
    from harness.lab.calls import Caller
    from harness.lab.folder import find

    bad = False
    with Caller(find(name)) as caller:
        for written in texts:
            for told in caller.call(call, text=written):
                bad = bad or told[key] != good
                if as_json:
                    click.echo(json.dumps({each: value for each, value in told.items() if each not in {"text", "evidence"}}))
                else:
                    show(text.probe(told, expected=call == "check"))
    if bad:
        raise SystemExit(1)
