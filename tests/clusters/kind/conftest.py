"""kind and docker by a recorded contract, Helm as it is, and a cluster where there is one."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
EXCHANGES: dict[str, Any] = yaml.safe_load((HERE / "contract" / "exchanges.yaml").read_text())


@dataclass
class Contract:
    """Which exchanges are to come, and which calls were made."""

    folder: Path
    name: str = "shop"

    def play(self, *names: str) -> None:
        """These, in this order, and no other."""
        script = [json.loads(json.dumps(EXCHANGES[name]).replace("NAME", self.name)) for name in names]
        (self.folder / "script.json").write_text(json.dumps(script))
        (self.folder / "calls").unlink(missing_ok=True)

    @property
    def calls(self) -> list[dict[str, Any]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def played(self) -> bool:
        """Whether all of the script happened."""
        return len(self.calls) == len(json.loads((self.folder / "script.json").read_text()))

    def sent(self, *words: str) -> str:
        """The standard input of the call that begins so."""
        return next(each["stdin"] for each in self.calls if each["argv"][: len(words)] == list(words))


@pytest.fixture
def contract(tmp_path, monkeypatch):
    """kind and docker from the contract, in front of PATH; a state folder of the test's own."""
    folder, programs = tmp_path / "contract", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    for program in ("kind", "docker"):
        path = programs / program
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{HERE / "contract" / "replay.py"}" "{folder}" {program} "$@"\n')
        path.chmod(0o755)
    (folder / "kubeconfig").write_text(kubeconfig("https://127.0.0.1:9", "shop"))
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    contract = Contract(folder)
    yield contract
    wrong = folder / "wrong"
    assert not wrong.exists(), wrong.read_text()


@pytest.fixture
def some_helm(contract):
    """A helm that has a chart and installs nothing; tests of what it installs use the real one."""
    path = contract.folder.parent / "bin" / "helm"
    path.write_text("#!/bin/sh\n[ $1 = show ] && echo 'version: 1.20.2' || exit 98\n")
    path.chmod(0o755)


@pytest.fixture
def helm():
    """The real Helm."""
    built = HERE.parents[2] / "build" / "tools" / "helm"
    if not (shutil.which("helm") or built.exists()):
        pytest.skip("needs helm: `make tools` builds it (with Go)")
    return built


def kubeconfig(server: str, name: str) -> str:
    """As kind writes it."""
    context = f"kind-{name}"
    return yaml.safe_dump({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        "current-context": context,
        "users": [{"name": context, "user": {"token": "t"}}],
    })
