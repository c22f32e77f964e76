from __future__ import annotations

import platform
import subprocess
import sys
import textwrap

import pytest

from hybridcascade.engine import memory

GLIBC = sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"

# A freed block of 64 MiB: the faults of the second round tell whether its pages were kept.
COUNT_FAULTS = """
    import ctypes, resource, sys
    from hybridcascade.engine.memory import keep_freed_memory
    kept = [keep_freed_memory(), keep_freed_memory()]
    size = 64 * 2**20
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    def touch():
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        libc.free(block)
    touch()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    touch()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    print(kept[0], kept[1], faults, "torch" in sys.modules)
"""


def _run(**environment: str) -> tuple[bool, bool, int, bool]:
    # malloc's variables of the surrounding shell are left out: they would decide in the function's place
    base = {"PYTHONPATH": ":".join(p for p in sys.path if p), "PATH": "/usr/bin:/bin", "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(COUNT_FAULTS)],
        env=base | environment, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    first, second, faults, torch = done.stdout.split()
    return first == "True", second == "True", int(faults), torch == "True"


@pytest.mark.skipif(not GLIBC, reason="mallopt is glibc's")
def test_freed_pages_are_kept_and_calls_repeat() -> None:
    first, second, faults, torch = _run()
    assert first
    assert second
    assert faults < 100  # 16,384 pages of 4 KiB otherwise (fewer where the kernel uses huge pages)
    assert not torch  # a light import, for the command line


@pytest.mark.skipif(not GLIBC, reason="mallopt is glibc's")
@pytest.mark.parametrize(
    "environment",
    [{memory.SWITCH: "0"}, {"MALLOC_TOP_PAD_": "0"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=65536"}],
)
def test_the_user_has_the_last_word(environment: dict[str, str]) -> None:
    first, second, faults, _ = _run(**environment)
    assert not first
    assert not second
    assert faults > 20  # the pages went back and came again: the count above can tell


def test_nothing_happens_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    for name in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    memory._keep_once.cache_clear()
    assert memory.keep_freed_memory() is False
    memory._keep_once.cache_clear()


def test_a_refused_setting_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(memory, "_find_mallopt", lambda: lambda parameter, value: int(parameter != -4))
    monkeypatch.setattr(memory, "user_has_chosen", lambda environment: False)
    memory._keep_once.cache_clear()
    assert memory.keep_freed_memory() is False
    assert "M_MMAP_MAX" in caplog.text
    memory._keep_once.cache_clear()
