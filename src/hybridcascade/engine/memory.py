"""Keep freed memory in the process, so that every step does not pay for its pages again.

glibc gives blocks above a threshold (128 KiB, growing to 32 MiB) pages of their own and returns them on
each free. A training step allocates and frees gigabytes in such blocks: the kernel then maps and zeroes
the same pages in every step. On virtual machines, where a page fault is dear, that took more than half
of a training step (measured: `docs/performance.md`). Kept in the heap, the pages are faulted in once.

The price is that the process holds its peak of memory until it ends.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import platform
import sys
from collections.abc import Callable, Mapping

__all__ = ["SWITCH", "keep_freed_memory", "user_has_chosen"]

SWITCH = "HYBRIDCASCADE_KEEP_MEMORY"
"""Environment variable; `0` leaves the allocator as it is."""

# Parameters of mallopt(3), from glibc's malloc.h, and what they are set to.
_SETTINGS = {
    "M_MMAP_MAX": (-4, 0),  # no block gets pages of its own: all come from the heap
    "M_TRIM_THRESHOLD": (-1, -1),  # -1: the top of the heap is never given back
    "M_TOP_PAD": (-2, 256 * 1024 * 1024),  # bytes; the heap grows in few large steps
}

_log = logging.getLogger(__name__)


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep freed blocks for reuse; for commands that train or encode.

    Call it before the large tensors are made: blocks that exist already stay as they are. A second call
    does nothing. Nothing happens without glibc (macOS, Windows, musl), when `HYBRIDCASCADE_KEEP_MEMORY`
    is `0`, or when the user has tuned the allocator with glibc's own environment variables.

    Returns:
        Whether the allocator now keeps freed blocks through this function.
    """
    if os.environ.get(SWITCH, "1") == "0" or user_has_chosen(os.environ):
        return False
    return _keep_once()


def user_has_chosen(environment: Mapping[str, str]) -> bool:
    """Return whether glibc's allocator was tuned through the environment, which then has the last word.

    Args:
        environment: variables by name, such as `os.environ`.
    """
    names = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
    return any(name in environment for name in names) or "glibc.malloc" in environment.get("GLIBC_TUNABLES", "")


@functools.cache
def _keep_once() -> bool:
    mallopt = _find_mallopt()
    if mallopt is None:
        return False
    # mallopt returns 1 when it has accepted a value
    refused = [name for name, (parameter, value) in _SETTINGS.items() if mallopt(parameter, value) != 1]
    if refused:
        _log.warning("the allocator did not accept %s; training may be slower than it could be", ", ".join(refused))
    return not refused


def _find_mallopt() -> Callable[[int, int], int] | None:
    """Return glibc's `mallopt`, or None where the process does not run on glibc."""
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return None
    function = getattr(ctypes.CDLL(None), "mallopt", None)
    if function is None:
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int)
    function.restype = ctypes.c_int
    found: Callable[[int, int], int] = function
    return found
