"""Nothing outlives a lab: no process, no namespace, and no folder once the next one has started."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.clusters.netns import launch
from harness.clusters.netns.cluster import LabOptions, NetnsCluster
from harness.errors import ClusterError
from tests.clusters.netns.conftest import require_lab

SMALL = LabOptions(pods=1)
PARENT = """
import sys
from harness.clusters.netns.cluster import LabOptions, NetnsCluster
cluster = NetnsCluster(LabOptions(pods=1))
print(cluster.pid, cluster.flows().removeprefix("unix://").rpartition("/")[0], flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Labs of this module put their folders where no other test's labs are, nor sweep. Short, since a socket's path must be."""
    require_lab()
    with tempfile.TemporaryDirectory(prefix="labs-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)


def gone(pid: int) -> bool:
    """Wait until the process has ended, at most ten seconds."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], 10.0)[0])
    finally:
        os.close(fd)


def folder_of(cluster: NetnsCluster) -> Path:
    address = cluster.flows()
    assert address is not None
    return Path(address.removeprefix("unix://")).parent


def named_namespaces() -> list[str]:
    folder = Path("/run/netns")
    return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []


def test_a_closed_lab_leaves_no_process_no_folder_and_no_named_namespace() -> None:
    before = named_namespaces()
    cluster = NetnsCluster(SMALL)
    pid, folder = cluster.pid, folder_of(cluster)
    assert folder.is_dir()
    assert named_namespaces() == before
    cluster.close()
    cluster.close()
    assert gone(pid)
    assert not folder.exists()
    with pytest.raises(ClusterError, match="closed"):
        cluster.release()


def test_a_killed_lab_is_an_error_that_says_so_and_the_next_start_sweeps_its_folder() -> None:
    cluster = NetnsCluster(SMALL)
    folder = folder_of(cluster)
    os.kill(cluster.pid, signal.SIGKILL)
    assert gone(cluster.pid)
    with pytest.raises(ClusterError, match="killed by signal 9"):
        cluster.release()
    assert folder.is_dir(), "SIGKILL leaves no time to tidy up"
    following = NetnsCluster(SMALL)
    try:
        assert not folder.exists()
        assert folder_of(following).is_dir()
    finally:
        following.close()
        cluster.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_lab_dies_with_its_parent_however_that_ends(number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        parent.send_signal(number)
        parent.wait(10)
        assert gone(int(pid))
    NetnsCluster(SMALL).close()
    assert not Path(folder).exists()


def test_a_parent_that_forgets_to_close_leaves_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", PARENT], input="", capture_output=True, text=True, check=True)
    pid, folder = done.stdout.split()
    assert gone(int(pid))
    assert not Path(folder).exists()
    assert not done.stderr


def test_a_lab_outlives_the_thread_that_asked_for_it() -> None:
    made: list[NetnsCluster] = []
    thread = threading.Thread(target=lambda: made.append(NetnsCluster(SMALL)))
    thread.start()
    thread.join()
    made[0].release()
    made[0].close()


def test_several_labs_live_side_by_side_with_the_same_addresses() -> None:
    first, second = NetnsCluster(SMALL), NetnsCluster(SMALL)
    try:
        assert first.pid != second.pid
        assert folder_of(first).is_dir()
        assert folder_of(second).is_dir()
        first.close()
        second.release()
    finally:
        first.close()
        second.close()


def test_sweeping_spares_the_living_and_what_is_not_a_labs(folders: Path) -> None:
    living = NetnsCluster(SMALL)
    dead = folders / "harness-lab-dead"
    dead.mkdir()
    (dead / "lock").touch()
    bystander = folders / "harness-lab-link"
    bystander.symlink_to(folders)
    try:
        launch.sweep(folders)
        assert folder_of(living).is_dir()
        assert not dead.exists()
        assert bystander.is_symlink()
    finally:
        bystander.unlink()
        shutil.rmtree(dead, ignore_errors=True)
        living.close()


def test_a_lab_that_cannot_start_says_what_its_process_said_and_leaves_nothing(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.clusters.netns.launch.MODULE", "harness.clusters.netns.not_there")
    with pytest.raises(ClusterError, match="not_there"):
        NetnsCluster(SMALL)
    assert not list(folders.iterdir())
