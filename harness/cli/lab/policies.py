"""`harness lab apply` and `delete`: policies of a lab change while it is up."""

from __future__ import annotations

import json

import click

from harness.cli.lab import text
from harness.cli.lab.options import output, show, which
from harness.errors import UsageError


@click.command(short_help="Apply policies, and say what each selects.")
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
        show(text.standing(changed["applied"]))
    if not text.sound(changed["applied"]):
        raise SystemExit(1)


@click.command(short_help="Delete policies by name.")
@which
@output
@click.argument("policies", nargs=-1, required=True, metavar="NAME...")
def delete(name: str | None, output: str, policies: tuple[str, ...]) -> None:
    """Delete policies by name, `[Kind/][namespace/]name`, as one change."""
    from harness.lab.calls import Caller
    from harness.lab.folder import find

    with Caller(find(name)) as caller:
        changed = caller.call("delete", names=list(policies))
    show([json.dumps(changed)] if output == "json" else (f"{each} deleted" for each in changed["removed"]))
