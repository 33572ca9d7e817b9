"""A lab of somebody who is not root: another user id, no capability at all, a run-time directory of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import ROOT, Labs, labs_in_a_folder

SOMEBODY = 64999
"""A user id that no account has."""
BECOME = """
set -e
# What only root may look into hides the interpreter: in here, and here only, nothing else is in there.
hidden=$1; stage=$2; user=$3; shift 3
if [ "$hidden" ]; then
    number=0
    for path in $SHOWN; do number=$((number + 1)); mkdir -p $stage/$number; mount --bind $path $stage/$number; done
    mount -t tmpfs -o mode=755 none $hidden
    number=0
    for path in $SHOWN; do number=$((number + 1)); mkdir -p $path; mount --bind $stage/$number $path; done
fi
exec setpriv --reuid $user --regid $user --clear-groups --inh-caps=-all --bounding-set=-all "$@"
"""
L7 = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: get, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress: [{toPorts: [{ports: [{port: "8080", protocol: TCP}], rules: {http: [{method: GET}]}}]}]
"""


def hidden() -> tuple[str, list[str]]:
    """The first folder on the way to Python that others may not enter, and what has to be seen in it all the same."""
    needed = [sys.base_prefix, sys.prefix, ROOT]
    for path in needed:
        for folder in reversed(Path(path).resolve().parents):
            if not folder.stat().st_mode & 0o001:
                return str(folder), [each for each in needed if Path(each).is_relative_to(folder)]
    return "", []


@pytest.fixture
def somebodys() -> Iterator[Labs]:
    """The `harness lab` command, as somebody runs it."""
    if os.geteuid() != 0:
        pytest.skip("this whole run is without root already")
    if missing := [each for each in ("unshare", "mount", "setpriv") if not shutil.which(each)]:
        pytest.skip(f"there is no {missing[0]} here: `apt-get install util-linux mount`")
    with labs_in_a_folder() as labs:
        folder, shown = hidden()
        labs.environment["SHOWN"] = " ".join(shown)
        stage = f"{labs.folder}/stage"
        become = ["unshare", "--mount", "--propagation", "private", "sh", "-c", BECOME, "sh", folder, stage, str(SOMEBODY)]
        if subprocess.run([*become, "true"], env=labs.environment, capture_output=True, check=False).returncode:
            pytest.skip("root may not mount here, or not become somebody else: a container without CAP_SYS_ADMIN")
        labs.before = become
        os.chown(labs.folder, SOMEBODY, SOMEBODY)
        yield labs


def test_somebody_who_is_not_root_explores_a_lab_with_proxies(somebodys: Labs) -> None:
    labs = somebodys
    up = labs.run("up", str(labs.case), "--phase", "baseline")
    if "may not make network namespaces" in up.stderr:
        pytest.skip(up.stderr)
    assert up.returncode == 0, up.stderr
    keeper = labs.folder / "harness"
    assert (keeper.stat().st_uid, keeper.stat().st_mode & 0o077) == (SOMEBODY, 0)
    uid, mapped = labs.ok("exec", "frontend", "--", "sh", "-c", "id -u; cat /proc/self/uid_map").splitlines()
    assert (uid, mapped.split()) == ("0", ["0", str(SOMEBODY), "1"])
    assert "answered by shop/backend-0" in labs.ok("probe", "frontend -> backend:8080")
    assert "shop/frontend" in labs.ok("observe", "--last", "1")
    (labs.folder / "get.yaml").write_text(L7)
    labs.ok("apply", "get.yaml")
    assert "status 200" in labs.ok("probe", "frontend -> backend:8080 GET /")
    assert "status 403" in labs.run("probe", "frontend -> backend:8080 POST /").stdout
    assert "is down" in labs.ok("down")
    assert [each.name for each in keeper.iterdir()] == []
