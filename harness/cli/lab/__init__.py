"""`harness lab`: a lab that stays up, for exploring what policies do. Reads files and prints; everything happens in `harness.lab`."""

from __future__ import annotations

import click

from harness.cli.lab.inside import check, exec_, probe
from harness.cli.lab.observe import observe
from harness.cli.lab.policies import apply, delete
from harness.cli.lab.up import down, list_, status, up


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


for command in (up, exec_, probe, check, apply, delete, observe, status, list_, down):
    lab.add_command(command)
