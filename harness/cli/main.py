"""The command line: its groups and the one place where errors become a message and an exit code."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click

import harness
from harness.errors import HarnessError

COMMANDS: Mapping[str, tuple[str, str]] = {
    "check": ("harness.cli.check", "Read case files and say what is in them; runs nothing."),
    "cluster": ("harness.cli.cluster", "Make a kind cluster with Cilium for --cluster=kind, show it, upgrade it, remove it."),
    "diff": ("harness.cli.diff", "Which flows a change of policies allows or denies: folders, or git revisions."),
    "explain": (
        "harness.cli.explain",
        "Why a flow is allowed or denied: the rules that decide, those that almost do, and what would help.",
    ),
    "lab": ("harness.cli.lab", "Bring a lab up and look around in it: real pods, packets and flows on this machine."),
    "lint": ("harness.cli.lint", "Find what is suspicious in policies: refused, misread, without effect."),
    "predict": ("harness.cli.predict", "What Cilium would decide, by the policy model alone."),
    "schema": ("harness.cli.schema", "Print the JSON Schema of case files, for editors."),
    "sweep": ("harness.cli.sweep", "List what killed runs left on a Kubernetes cluster, and remove it."),
}
"""Each command is imported when it is called; its one line of help is here, so that `--help` imports none."""


class Commands(click.Group):
    """A group that knows its commands by name only."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *super().list_commands(ctx)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx) if name in COMMANDS])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.list_commands(ctx):
            from harness.cases.suggest import did_you_mean

            ctx.fail(f"no such command {name!r}: {did_you_mean(name, self.list_commands(ctx), noun='there are')}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """The error rim: a message for the person, no traceback, exit code 2."""
        try:
            return super().invoke(ctx)
        except HarnessError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(2)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(harness.__version__, prog_name="harness")
def main() -> None:
    """Test-driven development for Cilium network policies.

    Cases are run by pytest: `pytest suites/`. See `pytest --help`, section "network policy cases".
    """
