"""`harness lab up`, `status`, `list` and `down`: labs come, are listed, and go."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.lab import text
from harness.cli.lab.options import output, seconds, show, which
from harness.errors import ClusterError, UsageError

if TYPE_CHECKING:
    from harness.cases.case import Case, EndpointSpec


@click.command()
@click.argument("case", required=False, metavar="[CASE.yaml[::CASE[::PHASE]]]")
@click.option("-f", "--filename", "manifests", multiple=True, metavar="FILE", help="Manifests instead of a case: files, folders or -.")
@click.option("-n", "--namespace", default="default", help="For manifests that name none. [default: default]")
@click.option("--phase", help="Put the policies of this phase in force; default: the last phase. `none`: no policy.")
@click.option("--name", default="lab", envvar="HARNESS_LAB", help="What to call it, to have several. [default: lab; env: HARNESS_LAB]")
@click.option(
    "--idle", default="8h", metavar="TIME", help="End it when nobody has used it for so long (90s, 30m, 8h; 0: never). [default: 8h]"
)
@click.option("--cilium-version", default="1.20", help="What it behaves as. [default: 1.20]")
@click.option("--hubble-listen", default="", metavar="HOST:PORT", help="Serve its flows there too, for `hubble observe --server`.")
@output
def up(
    case: str | None,
    manifests: tuple[str, ...],
    namespace: str,
    phase: str | None,
    name: str,
    idle: str,
    cilium_version: str,
    hubble_listen: str,
    output: str,
) -> None:
    """Bring a lab up from a case or from manifests, and leave it up.

    Of a case all endpoints, services and externals come up, with the policies of its last phase (or of --phase) in force. Of manifests,
    workloads come up as one pod each, which serves every port that it declares, with the policies found among them.
    """
    from harness.clusters.netns.cluster import LabOptions
    from harness.clusters.open import check_cilium
    from harness.lab.calls import Caller
    from harness.lab.keeper import Settings
    from harness.lab.start import start

    if bool(case) == bool(manifests):
        raise UsageError(
            "name a case file, or manifests with -f", hint="as in `harness lab up CASE.yaml` or `harness lab up -f manifests/`"
        )
    check_cilium(cilium_version)
    unused = seconds(idle, "--idle")
    notes: Sequence[str] = ()
    if case:
        found, phase = _case(case, phase)
    else:
        from harness.cli.ask import documents
        from harness.lab.manifests import PHASE, read_manifests

        found, notes = read_manifests(documents(manifests), namespace)
        phase = PHASE if phase is None else _phase(found, phase)
    folder = start(name, Settings(found, phase, unused, LabOptions(cilium=cilium_version, hubble_listen=hubble_listen)))
    with Caller(folder) as caller:
        status = caller.call("status")
    if output == "json":
        click.echo(json.dumps(status))
        return
    show(text.lab(status), text.contents(status))
    show(click.style(note, fg="yellow") for note in notes)
    show(_go_on(found, name))


def _case(written: str, phase: str | None) -> tuple[Case, str]:
    """The case that a path or a pytest node id names, and the phase whose policies are to be in force ('' for none)."""
    from harness.cases.load import load_cases
    from harness.cases.suggest import did_you_mean

    file, _, rest = written.partition("::")
    name, _, of_node = rest.partition("::")
    if not Path(file).is_file():
        raise UsageError(
            f"there is no case file {file}", hint="name a file such as suites/getting-started/test_walk.yaml; manifests go with -f"
        )
    cases = load_cases(Path(file), may_expect_nothing=True)
    chosen = [each for each in cases if each.name == name] if name else cases
    if len(chosen) != 1:
        names = [each.name for each in cases]
        what = f"{file} has no case {name!r}" if name else f"{file} has {len(cases)} cases: say which"
        raise UsageError(what, hint=did_you_mean(name, names, noun=f"{file}::CASE with one of"))
    wanted = phase or of_node
    return chosen[0], _phase(chosen[0], wanted) if wanted else chosen[0].phases[-1].name


def _phase(case: Case, name: str) -> str:
    """The name of a phase of the case; '' for `none`, where no phase is called so."""
    if name == "none" and name not in {each.name for each in case.phases}:
        return ""
    return case.phase(name).name


def _go_on(case: Case, name: str) -> Iterable[str]:
    """Commands that work in this lab, to begin with."""
    option = "" if name == "lab" else f" --name {name}"
    yield ""
    yield "go on with"
    pair = next(((client, key) for key, each in case.endpoints.items() if each.ports for client in case.endpoints if client != key), None)
    if pair is not None:
        client, key = pair
        target, port = case.endpoints[key], case.endpoints[key].ports[0]
        flow = f"{client} -> {key}:{port.port}" + ("" if port.protocol == "TCP" else f"/{port.protocol}")
        if port.protocol == "TCP" and port.serve in ("auto", "http"):
            yield f"    harness lab exec{option} {client} -- curl -sS -m 2 http://{_host(case, target)}:{port.port}/"
        yield f"    harness lab probe{option} '{flow}'"
    yield f"    harness lab apply{option} POLICY.yaml"
    yield f"    harness lab observe{option} --follow"
    yield f"    harness lab down{option}"


def _host(case: Case, target: EndpointSpec) -> str:
    """A name by which programs in a lab find a pod: a service of that name goes before it."""
    pod = target.pods()[0]
    full = f"{pod.name}.{pod.namespace}"
    return f"{full}.pod" if f"{pod.namespace}/{pod.name}" in case.services else full


@click.command()
@which
@output
def status(name: str | None, output: str) -> None:
    """What is in the lab: pods, addresses, services, policies."""
    from harness.lab.calls import Caller
    from harness.lab.folder import find

    with Caller(find(name)) as caller:
        found = caller.call("status")
    show([json.dumps(found)] if output == "json" else (*text.lab(found), *text.contents(found)))


@click.command(name="list")
@output
def list_(output: str) -> None:
    """The labs that are up."""
    from harness.lab.calls import Caller
    from harness.lab.folder import living

    found = []
    for folder in living():
        try:
            with Caller(folder) as caller:
                found.append(caller.call("about"))
        except ClusterError as error:  # told beside the others, which are well
            click.echo(f"error: {error}", err=True)
    if output == "json":
        show(map(json.dumps, found))
    elif found:
        show(line for each in found for line in text.lab(each))
    else:
        click.echo("no lab is up; `harness lab up CASE.yaml` starts one")


@click.command()
@which
@click.option("--all", "every", is_flag=True, help="Every lab of yours.")
def down(name: str | None, *, every: bool) -> None:
    """End a lab: its pods, what runs in them, everything. Returns when it is gone."""
    from harness.lab.calls import Caller
    from harness.lab.folder import find, living

    for folder in list(living()) if every else [find(name)]:
        with Caller(folder) as caller:
            caller.end()
        click.echo(f"lab `{folder.name}` is down")
