"""Namespaces and process attributes that Python 3.11 has no calls for: unshare, setns, mount, prctl. Knows nothing of links or addresses."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUTS = 0x04000000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MS_REC = 0x4000
_MS_PRIVATE = 0x40000
FORBIDDEN = 3
"""The exit status of a lab that was not allowed to make its namespaces."""
_OWN = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


class Namespace:
    """An anonymous network namespace, alive as long as its descriptor. The process's own is `Namespace.current()`."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def current(cls) -> Namespace:
        return cls(os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC))

    @classmethod
    def create(cls) -> Namespace:
        """A new one. The calling thread is in it afterwards, and `enter` knows that."""
        _check(_libc.unshare(_CLONE_NEWNET), "unshare(CLONE_NEWNET)")
        namespace = cls.current()
        _Thread.inside = namespace
        return namespace

    def enter(self) -> None:
        """Move the calling thread here. Only the lab's main thread does this, so staying there until the next `enter` is safe:
        everything else that it does is independent of the network namespace."""
        if _Thread.inside is not self:
            _check(_libc.setns(self.fd, _CLONE_NEWNET), "setns")
            _Thread.inside = self

    def close(self) -> None:
        os.close(self.fd)


class _Thread:
    """Where the lab's main thread is. A setns costs 4 us and happens several times a probe: half of them are to where it is already."""

    inside: Namespace | None = None


@contextmanager
def visiting(namespace: Namespace, home: Namespace) -> Iterator[None]:
    """In the namespace for a while, then home."""
    namespace.enter()
    try:
        yield
    finally:
        home.enter()


def isolate() -> None:
    """Put this process, which must have no threads yet, into a network namespace of its own, and into a user namespace where it needs
    one to be allowed that. Raises OSError where the machine forbids it."""
    if os.geteuid() == 0:
        try:
            _check(_libc.unshare(_CLONE_NEWNET), "unshare(CLONE_NEWNET)")
        except PermissionError:
            pass  # root without CAP_SYS_ADMIN, as in a container: a user namespace may still do
        else:
            return
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET), "unshare(CLONE_NEWUSER | CLONE_NEWNET)")
    # A process without privileges may map its own group only after giving up setgroups.
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def join(network: Path, user: Path) -> None:
    """Move this process, which must have one thread, to the namespaces of another: its user namespace where that is not ours, then a network
    namespace. Both are paths in /proc. Raises OSError."""
    descriptors = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in (network, user)]
    try:
        if not user.samefile("/proc/self/ns/user"):
            _check(_libc.setns(descriptors[1], _CLONE_NEWUSER), "setns(CLONE_NEWUSER)")
        _check(_libc.setns(descriptors[0], _CLONE_NEWNET), "setns(CLONE_NEWNET)")
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def own_files(covers: Mapping[Path, Path], hostname: str) -> None:
    """Give this process a mount namespace in which files (the keys) are covered by others, and a machine's name of its own. What is not there
    cannot be covered, and stays so. Raises OSError."""
    _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS), "unshare(CLONE_NEWNS | CLONE_NEWUTS)")
    _check(_libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "mount /")
    for place, file in covers.items():
        target = place.resolve()
        if target.exists():
            _check(_libc.mount(os.fsencode(file), os.fsencode(target), None, _MS_BIND, None), f"mount {place}")
    socket.sethostname(hostname)
