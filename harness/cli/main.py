"""The command line: its groups and the one place where errors become a message and an exit code."""

from __future__ import annotations

import click

import harness


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(harness.__version__, prog_name="harness")
def main() -> None:
    """Test-driven development for Cilium network policies."""
