"""`harness cluster`: a kind cluster with Cilium, made, shown, upgraded and removed. Runs nothing on it: that is `pytest --cluster=kind`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from harness.clusters.kind.provision import Provisioner, Status

_NAME = click.option("--name", metavar="NAME", default="", help="The kind cluster (default: cilium-policy-harness).")


@click.group()
def cluster() -> None:
    """A kind cluster with Cilium for `pytest --cluster=kind`. Needs docker, kind and helm."""


@cluster.command()
@_NAME
@click.option("--cilium-version", metavar="VERSION", default="", help="1.19 (its newest patch) or 1.19.7 (default: 1.20).")
@click.option("--profile", metavar="NAME|FILE", default="", help="Helm values: a file, or one of ci/profiles (default: default).")
@click.option("--chart", metavar="PATH|REF", default="", help="A chart's folder, .tgz or oci:// reference instead of helm.cilium.io's.")
@click.option("--image", metavar="IMAGE", default="", help="The node image, such as kindest/node:v1.35.8 (default: kind's own).")
@click.option("--config", metavar="FILE", default="", help="A kind configuration (default: the project's kind-config.yaml).")
def up(name: str, cilium_version: str, profile: str, chart: str, image: str, config: str) -> None:
    """Make the cluster, or bring the one that is there to what is asked for (helm upgrade). It stays until `down`.

    Exit code 0: it is ready; 2: it could not be made, and nothing of it is left.
    """
    from harness.clusters.kind.wanted import Wanted

    wanted = Wanted(_named(name), cilium_version, profile, chart, image, config)
    provisioner = _provisioner()
    record = provisioner.up(wanted, stays=True, change=True)
    click.echo(f"kind cluster {record.name}: Cilium {record.cilium}, profile {record.profile}, ready")
    click.echo(f"    pytest suites --cluster=kind{_words(record.name, '--kind-name')}")
    click.echo(f"    kubectl --kubeconfig {provisioner.records.kubeconfig(record.name)} get pods -A")
    click.echo(f"    harness cluster down{_words(record.name, '--name')}")


@cluster.command()
@_NAME
def status(name: str) -> None:
    """Show the clusters that the harness made here, or one by its name.

    Exit code 0: each is ready; 1: one is not, or there is none; 2: it could not be found out.
    """
    provisioner = _provisioner()
    found = [provisioner.status(each) for each in ([name] if name else provisioner.records.names())]
    for each in found:
        click.echo("\n".join(_lines(each)))
    if not found:
        click.echo("there is no kind cluster of the harness's here; `harness cluster up` makes one")
    raise SystemExit(0 if found and all(each.state == "ready" for each in found) else 1)


@cluster.command()
@_NAME
@click.option("--force", is_flag=True, help="Also while a run uses it.")
def down(name: str, *, force: bool) -> None:
    """Remove the cluster. One that the harness did not make is left alone.

    Exit code 0: it is gone, or was never there; 2: it is still there.
    """
    from harness.errors import ClusterTakenError

    provisioner = _provisioner()
    name = _named(name)
    if not force and provisioner.records.in_use(name):
        raise ClusterTakenError(f"a run is using the kind cluster {name!r}", hint="wait for it to end, or say --force")
    click.echo(f"kind cluster {name}: removed" if provisioner.down(name) else f"there is no kind cluster {name}")


def _provisioner() -> Provisioner:
    from harness.clusters.kind.provision import Provisioner
    from harness.clusters.kind.record import Records

    return Provisioner(Records(), lambda line: click.echo(line, err=True))


def _named(name: str) -> str:
    from harness.clusters.kind.wanted import DEFAULT_NAME, check_name

    return check_name(name or DEFAULT_NAME)


def _words(name: str, option: str) -> str:
    from harness.clusters.kind.wanted import DEFAULT_NAME

    return "" if name == DEFAULT_NAME else f" {option} {name}"


def _lines(found: Status) -> list[str]:
    record = found.record
    if record is None or not record.ready:
        return [f"{found.name}: {found.state}"]
    age = int(time.time() - record.created) // 60
    kept = "stays until `harness cluster down`" if record.stays else "goes when the run that made it ends"
    return [
        f"{found.name}: {found.state}, Cilium {record.cilium}, profile {record.profile}, {age} min old, {kept}",
        *(f"    {each}" for each in found.late),
    ]
