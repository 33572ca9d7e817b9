"""The programs of others that make a cluster: docker, kind, helm. Runs them and says what they said; knows nothing of what they do."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from msgspec import Struct

from harness.errors import ProgramError, ProgramMissingError

_ENDS_WITHIN = 10.0
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Program(Struct, frozen=True):
    """One program by its name on PATH. `install` tells a person how to get it."""

    name: str
    install: str

    def find(self) -> str:
        """Where it is. Raises `ProgramMissingError`."""
        found = shutil.which(self.name)
        if found is None:
            raise ProgramMissingError(f"`{self.name}` is not installed (or not on PATH): --cluster=kind needs it", hint=self.install)
        return found

    def run(self, *arguments: str, within: float, text: str | None = None) -> str:
        """Its standard output. `text` is its input, `within` how many seconds it may take. Raises `ProgramError` with the last thing it said.

        It runs in a session of its own, so that Ctrl-C reaches only the harness, which then ends it and clears up in order."""
        command = [self.find(), *arguments]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE if text is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(text, timeout=within)
            except subprocess.TimeoutExpired:
                _end(process)
                raise ProgramError(f"{self._said(arguments)} took longer than {within:g} s, and was ended") from None
            except BaseException:
                _end(process)
                raise
        if process.returncode:
            said = _COLOURS.sub("", err).strip() or out.strip() or f"exit code {process.returncode}"
            raise ProgramError(f"{self._said(arguments)} failed: {_last_words(said)}", said=said)
        return out

    def _said(self, arguments: Sequence[str]) -> str:
        return f"`{self.name} {' '.join(arguments[:2])}`"


DOCKER = Program("docker", "install Docker Engine: https://docs.docker.com/engine/install/")
KIND = Program("kind", "install kind: https://kind.sigs.k8s.io/docs/user/quick-start/#installation")
HELM = Program("helm", "install Helm: https://helm.sh/docs/intro/install/")


def _end(process: subprocess.Popen[str]) -> None:
    """The whole session: kind runs docker, helm runs plugins."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ENDS_WITHIN)
            return


def _last_words(said: str) -> str:
    """What went wrong, without what went well before it: from the line that says so on."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    begin = next((place for place, line in enumerate(lines) if line.lower().startswith("error")), max(0, len(lines) - 3))
    words = " ".join(lines[begin:])
    return words if len(words) <= 600 else words[:600] + " …"
