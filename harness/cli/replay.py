"""`harness predict POLICY... --flows-from FILE`: what policies would have decided about flows that were recorded somewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from harness.cases.manifests import CIDR_GROUP, objects_of
from harness.cli.ask import documents
from harness.errors import FlowFileError, Location, UsageError
from harness.hubble.convert import Event
from harness.hubble.recorded import read_flows
from harness.hubble.traffic import Talk, recording
from harness.model.flow import Flow, LostEvents
from harness.model.traffic import External, Peer, Protocol, Traffic
from harness.model.verdict import PolicyVerdict, Verdict
from harness.policy.evaluate import Evaluator
from harness.policy.options import Options
from harness.policy.repository import Repository


def recorded(file: str) -> Iterator[Event]:
    """The events of a file of saved flows; `-` is standard input. Raises FlowFileError."""
    if file == "-":
        yield from read_flows(sys.stdin, "<stdin>")
        return
    try:
        with Path(file).open(encoding="utf-8") as lines:
            yield from read_flows(lines, file)
    except OSError as error:
        raise FlowFileError(f"cannot be read: {error.strerror}", location=Location(file, 1)) from error
    except UnicodeDecodeError as error:
        raise FlowFileError(f"not UTF-8 text: {error.reason}", location=Location(file, 1)) from error


def replay(policies: Sequence[str], file: str, options: Options, *, as_json: bool) -> int:
    """Print what would be decided otherwise than it was (as JSON: everything). The exit code: 1 if anything would be."""
    if not policies:
        raise UsageError("name the policies to try on the recorded flows", hint="as in `harness predict policies/ --flows-from flows.json`")
    objects = [each for node in documents(policies) for each in objects_of(node)]
    events = list(recorded(file))
    found = recording(each for each in events if isinstance(each, Flow))
    if not found.talks:
        raise FlowFileError(
            "no flow in it says who talked to whom",
            location=Location(file, 1),
            hint="record some with `hubble observe -o json --last 10000`",
        )
    applied = [each.policy("default") for each in objects if each.kind != CIDR_GROUP]
    groups = tuple(each.cidr_group() for each in objects if each.kind == CIDR_GROUP)
    state = replace(found.state, cidr_groups=groups)
    evaluator = Evaluator(state, Repository.empty(options).change(apply=[each.document for each in applied]), found.learned)
    for ref, error in evaluator.repository.errors.items():
        click.echo(f"warning: {ref} is refused, nothing of it is enforced: {error}", err=True)
    for each in applied:
        if _names_ports(each.document):
            click.echo(
                f"warning: {each.ref} names ports, and flows do not tell what a pod calls its ports: such rules match nothing here",
                err=True,
            )
    if lost := sum(each.count for each in events if isinstance(each, LostEvents)):
        click.echo(f"warning: {lost} events were lost when these flows were recorded", err=True)
    if found.skipped:
        click.echo(f"warning: {found.skipped} flows left out: they do not say who one of their ends is", err=True)
    otherwise = 0
    for talk in found.talks:
        verdict = evaluator.verdict(talk.traffic)
        differs = _differs(talk, verdict)
        otherwise += differs
        if as_json:
            click.echo(json.dumps(_told(talk, verdict, differs=differs)))
        elif differs:
            click.echo(_line(talk, verdict))
    if not as_json:
        connections = sum(talk.passed + talk.dropped for talk in found.talks)
        what = f"{len(found.talks)} different flows in {connections} recorded connections"
        click.echo(f"{what}: {otherwise or 'none'} would be decided otherwise")
    return int(bool(otherwise))


def _differs(talk: Talk, verdict: PolicyVerdict) -> bool:
    """Whether any of the connections would have fared otherwise; an unknown verdict is no promise that none would."""
    if verdict.verdict is Verdict.ALLOW:
        return talk.dropped > 0
    return talk.passed > 0 or verdict.verdict is not Verdict.DENY


def _line(talk: Talk, verdict: PolicyVerdict) -> str:
    sides = f"egress {verdict.egress.decision}, ingress {verdict.ingress.decision}, L7 {verdict.l7}"
    return f"{verdict.verdict}: {_named(talk.traffic)} ({sides}); recorded: {_recorded(talk)}"


def _recorded(talk: Talk) -> str:
    parts = [f"{talk.passed} forwarded"] * bool(talk.passed) + [f"{talk.dropped} dropped"] * bool(talk.dropped)
    return ", ".join(parts)


def _told(talk: Talk, verdict: PolicyVerdict, *, differs: bool) -> Mapping[str, Any]:
    return {
        "flow": _named(talk.traffic),
        "verdict": verdict.verdict,
        "egress": verdict.egress.decision,
        "ingress": verdict.ingress.decision,
        "l7": verdict.l7,
        "forwarded": talk.passed,
        "dropped": talk.dropped,
        "otherwise": differs,
    }


def _named(traffic: Traffic) -> str:
    protocol = "" if traffic.protocol is Protocol.TCP else f"/{traffic.protocol.lower()}"
    if traffic.protocol.has_ports:
        target = f"{_peer(traffic.destination)}:{traffic.port}{protocol}"
    else:
        target = f"{_peer(traffic.destination)} {traffic.protocol.lower()} type {traffic.port}"
    return f"{_peer(traffic.source)} -> {target}" + (f" {traffic.request}" if traffic.request else "")


def _peer(peer: Peer) -> str:
    return f"world:[{peer.address}]" if isinstance(peer, External) and ":" in peer.address else str(peer)


def _names_ports(node: object) -> bool:
    """Whether a policy refers to a port by its name."""
    if isinstance(node, list):
        return any(map(_names_ports, node))
    if not isinstance(node, Mapping):
        return False
    port = node.get("port")
    return (isinstance(port, str) and not port.isdigit()) or any(map(_names_ports, node.values()))
