"""libnftables, the library inside `nft`, by ctypes: one transaction is a fraction of a millisecond instead of a program's start.
Knows nothing of what the rules mean."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from harness.clusters.netns.kernel import Namespace
from harness.errors import ClusterError, LabUnavailableError

_SONAME = "libnftables.so.1"


@cache
def library() -> Any:
    """The loaded library. Raises LabUnavailableError where it is missing."""
    try:
        lib = ctypes.CDLL(_SONAME)
    except OSError as error:
        raise LabUnavailableError(
            f"the lab enforces policy with nftables, and {_SONAME} cannot be loaded: {error}",
            hint="Install it (Debian, Ubuntu: `apt-get install nftables`), or pass `--cluster=memory`.",
        ) from error
    lib.nft_ctx_new.restype = ctypes.c_void_p
    lib.nft_ctx_new.argtypes = [ctypes.c_uint32]
    lib.nft_ctx_free.argtypes = [ctypes.c_void_p]
    lib.nft_ctx_free.restype = None
    for name in ("nft_ctx_buffer_error", "nft_ctx_buffer_output"):
        getattr(lib, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_error_buffer", "nft_ctx_get_output_buffer"):
        getattr(lib, name).argtypes = [ctypes.c_void_p]
        getattr(lib, name).restype = ctypes.c_char_p
    lib.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return lib


class Ruleset:
    """The packet filter of one namespace. Its netlink socket is made once, there; later no `enter` is needed."""

    def __init__(self, namespace: Namespace, owner: str) -> None:
        self._lib = library()
        self._owner = owner
        namespace.enter()
        self._context = self._lib.nft_ctx_new(0)
        if not self._context:
            raise ClusterError(f"no nftables context for {owner}")
        self._lib.nft_ctx_buffer_error(self._context)
        self._lib.nft_ctx_buffer_output(self._context)

    def run(self, commands: str) -> str:
        """Run all commands as one transaction and return what they print. Raises ClusterError; then nothing of it is in force."""
        if self._lib.nft_run_cmd_from_buffer(self._context, commands.encode()) != 0:
            said = self._lib.nft_ctx_get_error_buffer(self._context).decode(errors="replace").strip()
            raise ClusterError(f"nftables refused a change on {self._owner}: {said[:2000]}")
        output: bytes = self._lib.nft_ctx_get_output_buffer(self._context)
        return output.decode(errors="replace")

    def close(self) -> None:
        if self._context:
            self._lib.nft_ctx_free(self._context)
            self._context = None
