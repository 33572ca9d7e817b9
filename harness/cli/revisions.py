"""Manifests as a git revision has them. Asks git, changes nothing in the repository."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from harness.cases.source import Source
from harness.errors import Location, PolicyFileError, UsageError

_MANIFESTS = (".yaml", ".yml", ".json")
_FILES, _LINK = (b"100644", b"100755"), b"120000"


class Revision(Struct, frozen=True):
    """A commit, and how people call it."""

    name: str
    commit: str

    def sources(self, path: str) -> list[Source]:
        """The manifests at a path of the repository ('' is its top): a file, or all below a folder. [] if there is no such path."""
        inside = path
        listed = _git("ls-tree", "-r", "-z", "--full-tree", self.commit, *(("--", inside) if inside else ()))
        found: dict[str, bytes] = {}
        for line in filter(None, listed.split(b"\0")):
            about, _, raw = line.partition(b"\t")
            file = os.fsdecode(raw)
            mode, _, identifier = about.split(b" ")
            if file != inside and not file.endswith(_MANIFESTS):
                continue
            if mode == _LINK:
                raise UsageError(
                    f"{self.name}:{file} is a symbolic link", hint="name what it points to: revisions are read without following links"
                )
            if mode in _FILES:
                found[file] = identifier
        return [Source(f"{self.name}:{file}", text, error=PolicyFileError) for file, text in zip(found, self._texts(found), strict=True)]

    def _texts(self, files: dict[str, bytes]) -> Iterator[str]:
        """What the files say, by one process for all."""
        answer = _git("cat-file", "--batch", said=b"".join(each + b"\n" for each in files.values())) if files else b""
        for file in files:
            head, _, answer = answer.partition(b"\n")
            size = int(head.split(b" ")[2])
            raw, answer = answer[:size], answer[size + 1 :]
            try:
                yield raw.decode("utf-8-sig")
            except UnicodeDecodeError as exc:
                where = Location(f"{self.name}:{file}", 1)
                raise PolicyFileError(f"not UTF-8 text: byte {exc.start} is 0x{exc.object[exc.start]:02x}", location=where) from exc


def revision(name: str) -> Revision | None:
    """The commit that git knows by a name; None if there is none, or no repository here."""
    if not name or name.startswith("-"):
        return None
    try:
        commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}").decode().strip()
    except _GitError:
        return None
    return Revision(name, commit)


def in_repository(path: str, *, from_top: bool = False) -> str:
    """A path of the working directory (or, `from_top`, of the repository) as seen from the top of the repository, which is ''."""
    top = os.fsdecode(_git("rev-parse", "--show-toplevel").rstrip(b"\n"))
    inside = os.path.relpath(Path(top if from_top else Path.cwd()) / path, top)
    if inside == ".." or inside.startswith("../"):
        raise UsageError(f"{path} is outside of the git repository")
    return "" if inside == "." else inside


class _GitError(UsageError):
    """Git could not do what it was asked for."""


def _git(*words: str, said: bytes | None = None) -> bytes:
    try:
        done = subprocess.run(["git", *words], input=said, capture_output=True, check=False)
    except FileNotFoundError:
        raise UsageError("git is not installed", hint="revisions are read with it; name files or folders instead") from None
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        raise _GitError(f"git {words[0]}: {told[-1] if told else f'exit code {done.returncode}'}")
    return done.stdout
