"""`hybridcascade doctor`: is this installation sound, and what can the machine do?"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from hybridcascade.cachedir import default_text_cache
from hybridcascade.cli.parsing import CommandParser
from hybridcascade.cli.terminal import Terminal, command_output

__all__ = ["Check", "parser", "run", "run_checks"]

_EXAMPLES = """
hybridcascade doctor
hybridcascade doctor --json
"""
_LIBRARIES = {"torch": "torch", "torchvision": "torchvision", "open_clip": "open_clip_torch", "lightning": "lightning",
              "torchmetrics": "torchmetrics", "pandas": "pandas", "pyarrow": "pyarrow", "safetensors": "safetensors",
              "matplotlib": "matplotlib"}  # fmt: skip
_LITTLE, _TOO_LITTLE = 5.0, 0.2  # free disk space, GB


@dataclass(frozen=True)
class Check:
    """One line of the table.

    Attributes:
        name: what was looked at.
        status: `ok`, `note` (works, but worth knowing) or `broken`.
        found: what was found, and for `broken` what to do.
    """

    name: str
    status: str
    found: str


def parser() -> CommandParser:
    """Return the parser of the command."""
    summary = "Check this installation and this machine; exit code 1 when something is broken."
    return CommandParser("doctor", summary, _EXAMPLES)


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().read(arguments)
    with command_output(options.json, options.quiet, options.verbose) as terminal:
        checks = run_checks()
        broken = [check.name for check in checks if check.status == "broken"]
        _show(terminal, checks)
        if broken:
            terminal.say(f"broken: {', '.join(broken)}")
        else:
            terminal.next("demo")
    return 1 if broken else 0


def run_checks() -> list[Check]:
    """Run all checks; a check that fails does not stop the others."""
    checks = [_python()]
    checks += [_library(module, name) for module, name in _LIBRARIES.items()]
    torch_works = checks[1].status == "ok"
    checks += [_guarded("devices", _devices), _guarded("bf16", _bf16)] if torch_works else []
    checks += [_disk(Path.cwd()), _text_cache(default_text_cache()), _nano()]
    return checks


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    fits = (3, 11) <= sys.version_info[:2] < (3, 15)
    return Check("python", "ok" if fits else "broken", found if fits else f"{found}; 3.11 to 3.14 is needed")


def _library(module: str, name: str) -> Check:
    try:
        importlib.import_module(module)
        return Check(module, "ok", importlib.metadata.version(name))
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # a mixed install fails in all these ways
        reason = " ".join(str(error).split())
        return Check(module, "broken", f"cannot be imported: {reason}; install it again: pip install -U {name}")


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except (RuntimeError, OSError) as error:
        return Check(name, "broken", " ".join(str(error).split()))


def _devices() -> Check:
    import torch

    found = [f"cpu ({torch.get_num_threads()} threads)"]
    found += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found += ["mps"] if torch.backends.mps.is_available() else []
    return Check("devices", "ok", ", ".join(found))


def _bf16() -> Check:
    from hybridcascade.backbone.precision import has_bf16_units

    units = [device for device in ("cuda", "cpu") if has_bf16_units(device)]
    if units:
        return Check("bf16", "ok", f"units in: {', '.join(units)}; precision auto means bf16 there")
    return Check("bf16", "note", "no bf16 units; precision auto means fp32")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free / 1e9
    if free < _TOO_LITTLE:
        return Check("disk", "broken", f"{free:.2f} GB free in {folder}; a run does not fit, make room")
    return Check("disk", "note" if free < _LITTLE else "ok", f"{free:.1f} GB free in {folder}")


def _text_cache(folder: Path) -> Check:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        return Check("text cache", "broken", f"cannot write to {folder}: {reason}; train with --text_cache FOLDER")
    return Check("text cache", "ok", f"{folder} (writable)")


def _nano() -> Check:
    folder = Path(str(resources.files("hybridcascade.sandbox"))) / "nano"
    remedy = "install the package again"
    try:
        expected = json.loads((folder / "nano_card.json").read_text(encoding="utf-8"))["sha256"]
        found = hashlib.sha256((folder / "nano.safetensors").read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError) as error:
        return Check("nano weights", "broken", f"{error}; {remedy}")
    if found != expected:
        return Check("nano weights", "broken", f"checksum {found[:12]}, expected {expected[:12]}; {remedy}")
    size = os.path.getsize(folder / "nano.safetensors") / 1e6
    return Check("nano weights", "ok", f"{size:.1f} MB, checksum {found[:12]}")


def _show(terminal: Terminal, checks: list[Check]) -> None:
    if terminal.as_json:
        terminal.json({"checks": [asdict(check) for check in checks]})
        return
    width = max(len(check.name) for check in checks)
    terminal.data("\n".join(f"{check.status:<6}  {check.name:<{width}}  {check.found}" for check in checks))
