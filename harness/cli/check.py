"""`harness check`: reads case files as pytest's collection does, and lists what they hold. Provisions nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.errors import HarnessError, UsageError

if TYPE_CHECKING:
    from harness.cases.case import Case, Requirements


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-q", "--quiet", is_flag=True, help="Only mistakes and the last line.")
def check(paths: tuple[Path, ...], *, quiet: bool) -> None:
    """Read case files and say what is in them; runs nothing.

    PATHS are case files, or folders of test_*.yaml. Every file is read, whatever is wrong in others; exit code 2 if anything is.
    """
    from harness.cases.load import find_case_files, load_cases
    from harness.cases.manifests import Manifests

    manifests = Manifests()
    cases = wrong = 0
    for file in _files(paths, find_case_files):
        try:
            found = load_cases(file, manifests=manifests)
        except HarnessError as error:
            wrong += 1
            click.echo(f"error: {error}", err=True)
            continue
        cases += len(found)
        if not quiet:
            for case in found:
                click.echo("\n".join(_lines(case)))
    click.echo(_number(cases, "case") + (f", {_number(wrong, 'file')} with mistakes" if wrong else ""))
    if wrong:
        raise SystemExit(2)


def _files(paths: tuple[Path, ...], find: Callable[[Path], Iterable[Path]]) -> Iterator[Path]:
    for path in paths:
        if not path.exists():
            raise UsageError(f"there is no {path}", hint="name case files, or folders of test_*.yaml")
        found = list(find(path))
        if not found:
            raise UsageError(f"there are no case files in {path}", hint="case files are called test_*.yaml")
        yield from found


def _lines(case: Case) -> Iterator[str]:
    yield f"{case.location.file}::{case.name}" + (f"  [{', '.join(case.tags)}]" if case.tags else "")
    parts = [(len(case.endpoints), "endpoint"), (len(case.services), "service"), (len(case.externals), "external")]
    yield f"    {', '.join(_number(*part) for part in parts if part[0])}{_needs(case.requires)}"
    for phase in case.phases:
        written = [each for each in phase.expectations if not each.closed_world]
        rest = len(phase.expectations) - len(written)
        said = [_number(len(written), "expectation") + (f" and {rest} from `otherwise`" if rest else "")]
        said += [f"removes {_number(len(phase.remove), 'policy')}"] * bool(phase.remove)
        said += [f"applies {_number(len(phase.apply), 'policy')}"] * bool(phase.apply)
        yield f"    {phase.name}: {', '.join(said)}{_needs(phase.requires)}"


def _number(count: int, noun: str) -> str:
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun.removesuffix('y')}{'ies' if noun.endswith('y') else 's'}"


def _needs(requires: Requirements) -> str:
    needs = [f"Cilium {requires.cilium}"] * bool(requires.cilium) + sorted(requires.features)
    return f"; needs {', '.join(needs)}" if needs else ""
