"""Labs that stay up, in a run-time directory of their own, and the command line as people use it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from harness.cli.main import main
from tests.clusters.netns.conftest import require_lab

CASE = """\
case: only the frontend reaches the backend
namespace: shop
endpoints:
  frontend: {labels: {app: frontend}}
  intruder: {labels: {app: intruder}, namespace: dev}
  backend: {labels: {app: backend}, ports: [8080], replicas: 2}
services:
  web: {selector: {app: backend}, ports: [{port: 80, targetPort: 8080}]}
externals:
  stripe: {names: [api.stripe.com], ports: [8080]}
phases:
  baseline:
    - allow: frontend, intruder -> backend:8080
  deny:
    policies:
      - {apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: shut}, spec: {endpointSelector: {matchLabels: {app: backend}}, ingress: [{}]}}
    expect:
      - deny: frontend, intruder -> backend:8080
"""
ROOT = str(Path(__file__).parents[2])


class Labs:
    """The `harness lab` command for labs of one run-time directory."""

    def __init__(self, folder: Path, *, before: Sequence[str] = ()) -> None:
        self.folder = folder
        self.case = folder / "test_shop.yaml"
        self.case.write_text(CASE)
        self.before = list(before)
        """What runs the command in our stead."""
        proxies = {key: None for key in os.environ if key.lower().endswith("_proxy")}
        paths = os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))
        own = {"XDG_RUNTIME_DIR": str(folder), "PYTHONPATH": paths, "TMPDIR": str(folder), "NO_COLOR": "1"}
        self.environment = {key: value for key, value in {**os.environ, **own}.items() if key not in proxies and key != "HARNESS_LAB"}

    def words(self, *arguments: str) -> list[str]:
        return [*self.before, sys.executable, "-m", "harness", "lab", *arguments]

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a lab command to its end."""
        if self.before or arguments[0] == "exec" or set(options) - {"input"}:
            options = {"env": self.environment, "text": True, "capture_output": True, "timeout": 60, "cwd": self.folder, **options}
            return subprocess.run(self.words(*arguments), check=False, **options)
        # The same in this process: a new Python for each would be most of what these tests cost.
        with chdir(self.folder):
            done = CliRunner().invoke(main, ["lab", *arguments], env=self.environment, **options)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return subprocess.CompletedProcess(list(arguments), done.exit_code, done.stdout, done.stderr)

    def ok(self, *arguments: str, **options: Any) -> str:
        """What a command prints that must succeed."""
        done = self.run(*arguments, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    def fails(self, *arguments: str, code: int = 2) -> str:
        """What a command complains of that must fail so."""
        done = self.run(*arguments)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return str(done.stderr)

    def close(self) -> None:
        self.run("down", "--all")


@contextmanager
def labs_in_a_folder(**options: Any) -> Iterator[Labs]:
    require_lab()
    # Short, since a socket's path must be.
    with tempfile.TemporaryDirectory(prefix="hl-", dir="/tmp") as folder:
        labs = Labs(Path(folder), **options)
        try:
            yield labs
        finally:
            labs.close()


@pytest.fixture
def labs() -> Iterator[Labs]:
    """No lab is up."""
    with labs_in_a_folder() as found:
        yield found


@pytest.fixture(scope="module")
def lab() -> Iterator[Labs]:
    """A lab is up, with CASE and without policies. Whoever applies some deletes them."""
    with labs_in_a_folder() as found:
        found.ok("up", str(found.case), "--phase", "baseline")
        yield found


def gone(pid: int) -> bool:
    """Wait until the process has ended, at most twenty seconds."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], 20.0)[0])
    finally:
        os.close(fd)
