"""`harness schema`: the JSON Schema of case files."""

from __future__ import annotations

import json

import click


@click.command()
def schema() -> None:
    """Print the JSON Schema of case files, for editors.

    Editors with a YAML language server find it by the first line of a case file: `# yaml-language-server: $schema=PATH`.
    """
    from harness.cases.schema import schema as made

    click.echo(json.dumps(made(), indent=2, ensure_ascii=False))
