"""`harness lab`: a lab that stays up, for exploring what policies do. Reads files and prints; everything happens in `harness.lab`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from harness.cli import labtext
from harness.errors import ClusterError, UsageError

if TYPE_CHECKING:
    from harness.cases.case import Case, EndpointSpec

_DURATION = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>[smh]?)")
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_F = TypeVar("_F", bound=Callable[..., Any])


@click.group()
def lab() -> None:
    """Bring a lab up and look around in it: real pods, real packets, real flows, on this machine.

    \b
    harness lab up CASE.yaml                      pods, services and policies of a case (or -f manifests/)
    harness lab exec frontend -- curl -m2 http://backend:8080/
    harness lab probe 'frontend -> backend:8080'  one real probe, with its flows and what the model says
    harness lab apply policy.yaml                 enforced when it returns; says what it selects
    harness lab observe -f                        flows, as `hubble observe` shows them
    harness lab down

    A lab ends with `down`, or when nobody has used it for a while (`up --idle`). Several live side by side by --name.
    """  # noqa: D301 -- click's own mark for a paragraph that keeps its lines


def which(function: _F) -> _F:
    """The option that says which lab is meant."""
    return click.option("--name", envvar="HARNESS_LAB", help="Which lab; not needed where one is up. [env: HARNESS_LAB]")(function)


def output(function: _F) -> _F:
    """The option for scripts."""
    return click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="json: for scripts.")(function)


@lab.command()
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
    seconds = _seconds(idle)
    notes: Sequence[str] = ()
    if case:
        found, phase = _case(case, phase)
    else:
        from harness.cli.ask import documents
        from harness.lab.manifests import PHASE, read_manifests

        found, notes = read_manifests(documents(manifests), namespace)
        phase = PHASE if phase is None else _phase(found, phase)
    folder = start(name, Settings(found, phase, seconds, LabOptions(cilium=cilium_version, hubble_listen=hubble_listen)))
    with Caller(folder) as caller:
        status = caller.call("status")
    if output == "json":
        click.echo(json.dumps(status))
        return
    _print(labtext.lab(status), labtext.contents(status))
    _print(click.style(note, fg="yellow") for note in notes)
    _print(_go_on(found, status, name))


def _case(written: str, phase: str | None) -> tuple[Case, str]:
    """The case that a path or a pytest node id names, and the phase whose policies are to be in force ('' for none)."""
    from harness.cases.load import load_cases
    from harness.cases.suggest import did_you_mean

    file, _, rest = written.partition("::")
    name, _, of_node = rest.partition("::")
    if not Path(file).is_file():
        raise UsageError(
            f"there is no case file {file}", hint="name a file such as suites/basics/test_three_phases.yaml; manifests go with -f"
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


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--idle {text!r} is no time", hint="as in 90s, 30m or 8h; 0 for ever")
    return float(match["number"]) * _UNITS[match["unit"]]


def _go_on(case: Case, status: dict[str, Any], name: str) -> Iterable[str]:
    """Commands that work in this lab, to begin with."""
    option = "" if name == "lab" else f" --name {name}"
    yield ""
    yield "go on with"
    pair = next(((client, key) for key, each in case.endpoints.items() if each.ports for client in case.endpoints if client != key), None)
    if pair is not None:
        client, key = pair
        target, port = case.endpoints[key], case.endpoints[key].ports[0]
        flow = f"{client} -> {key}:{port.port}" + ("" if port.protocol == "TCP" else f"/{port.protocol}")
        if port.protocol == "TCP":
            yield f"    harness lab exec{option} {client} -- curl -sS -m 2 http://{_host(case, target)}:{port.port}/"
        yield f"    harness lab probe{option} '{flow}'"
    yield f"    harness lab apply{option} POLICY.yaml"
    yield f"    harness lab observe{option} --follow     (or: hubble observe --server {status['flows']})"
    yield f"    harness lab down{option}"


def _host(case: Case, target: EndpointSpec) -> str:
    """A name by which programs in a lab find a pod: a service of that name goes before it."""
    pod = target.pods()[0]
    full = f"{pod.name}.{pod.namespace}"
    return f"{full}.pod" if f"{pod.namespace}/{pod.name}" in case.services else full


@lab.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
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


@lab.command()
@which
@output
@click.argument("flows", nargs=-1, required=True, metavar="'A -> B:PORT'...")
def probe(name: str | None, output: str, flows: tuple[str, ...]) -> None:
    """Send real probes now: what packets and flows show, and what the model says.

    As in 'frontend -> backend:8080', 'frontend -> service/backend:80', 'any -> backend:8080 GET /admin', 'frontend -> backend icmp'. Exit code 0: all is allowed; 1: something is not.
    """
    _probes(name, "probe", flows, as_json=output == "json", good="allow", key="verdict")


@lab.command()
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
        for text in texts:
            for told in caller.call(call, text=text):
                bad = bad or told[key] != good
                if as_json:
                    click.echo(json.dumps({each: value for each, value in told.items() if each not in {"text", "evidence"}}))
                else:
                    _print(labtext.probe(told, expected=call == "check"))
    if bad:
        raise SystemExit(1)


@lab.command()
@which
@output
@click.option("-n", "--namespace", help="For policies that name none; default: the case's.")
@click.option("-f", "--filename", "more", multiple=True, metavar="FILE", help="As the argument, in kubectl's way.")
@click.argument("files", nargs=-1, metavar="POLICY.yaml...")
def apply(name: str | None, output: str, namespace: str | None, more: tuple[str, ...], files: tuple[str, ...]) -> None:
    """Apply policies (files, folders or -) as one change, and say what each selects.

    They are enforced when this returns. Exit code 1: a policy is refused, or does nothing.
    """
    from harness.cases.manifests import CIDR_GROUP, objects_of, policy_error
    from harness.cli.ask import documents
    from harness.lab.calls import Caller
    from harness.lab.folder import find

    if not (files or more):
        raise UsageError("name the policies to apply", hint="as in `harness lab apply policy.yaml`, or - for standard input")
    objects = [each for node in documents([*files, *more]) for each in objects_of(node)]
    if group := next((each for each in objects if each.kind == CIDR_GROUP), None):
        raise policy_error(
            group.name_place, f"a {CIDR_GROUP} belongs to what is brought up", "bring the lab up with it: `harness lab up -f`"
        )
    with Caller(find(name)) as caller:
        default = namespace or caller.call("about")["namespace"]
        policies = []
        for each in objects:
            policy = each.policy(default)
            ref, at = policy.ref, policy.location
            policies.append({
                "ref": [ref.kind, ref.namespace, ref.name],
                "document": policy.document,
                "location": [at.file, at.line, at.column, at.length],
            })
        changed = caller.call("apply", policies=policies)
    if output == "json":
        click.echo(json.dumps(changed))
    else:
        _print(labtext.standing(changed["applied"]))
    if not labtext.sound(changed["applied"]):
        raise SystemExit(1)


@lab.command()
@which
@output
@click.argument("policies", nargs=-1, required=True, metavar="NAME...")
def delete(name: str | None, output: str, policies: tuple[str, ...]) -> None:
    """Delete policies by name, `[Kind/][namespace/]name`, as one change."""
    from harness.lab.calls import Caller
    from harness.lab.folder import find

    with Caller(find(name)) as caller:
        changed = caller.call("delete", names=list(policies))
    _print([json.dumps(changed)] if output == "json" else (f"{each} deleted" for each in changed["removed"]))


@lab.command()
@which
@output
def status(name: str | None, output: str) -> None:
    """What is in the lab: pods, addresses, services, policies."""
    from harness.lab.calls import Caller
    from harness.lab.folder import find

    with Caller(find(name)) as caller:
        found = caller.call("status")
    _print([json.dumps(found)] if output == "json" else (*labtext.lab(found), *labtext.contents(found)))


@lab.command(name="list")
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
        _print(map(json.dumps, found))
    elif found:
        _print(line for each in found for line in labtext.lab(each))
    else:
        click.echo("no lab is up; `harness lab up CASE.yaml` starts one")


@lab.command()
@which
@click.option("--all", "every", is_flag=True, help="Every lab of yours.")
def down(name: str | None, *, every: bool) -> None:
    """End a lab: its pods, what runs in them, everything. Returns when it is gone."""
    from harness.lab.calls import Caller
    from harness.lab.folder import find, living

    for folder in list(living()) if every else [find(name)]:
        with Caller(folder) as caller:
            caller.call("down")
            caller.wait_until_gone()
        click.echo(f"lab `{folder.name}` is down")


def _print(*lines: Iterable[str]) -> None:
    for each in lines:
        for line in each:
            click.echo(line)
