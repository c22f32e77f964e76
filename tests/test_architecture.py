"""The architecture as a test: which room may import which, who alone may name a library, how long things may be.

Imports are read from the syntax tree, inside functions and under `TYPE_CHECKING` too, so nothing has to be
imported to be checked and a late import hides no arrow. Each rule is also tried on a small tree that breaks it:
a rule that cannot fail protects nothing. The table in words: docs/architecture.md.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "hybridcascade"
SOURCE = ROOT / "src" / PACKAGE
TOP = "top"
"""The composition room: `cli/` and the files at top level, except `types` and `errors`."""

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "types": {"errors"},
    "data": {"types"},
    "backbone": {"types"},
    "cascade": {"types"},
    "labelling": {"types"},
    "methods": {"types", "backbone", "cascade", "labelling"},
    "engine": {"types", "methods.base"},
    "evaluation": {"types", "engine"},
    "sandbox": {"types"},
    "experiments": {
        "types", "data", "backbone", "cascade", "labelling", "methods", "engine", "evaluation", "sandbox",
        "cachedir", "compose", "config", "encoded", "inference", "recipes", "stored_features", "supervision",
        "watching",
    },
    "integrations": {
        "types", "data", "backbone", "cascade", "labelling", "methods", "engine", "evaluation", "sandbox",
        "cachedir", "compose", "config", "encoded", "inference", "recipes",
    },
    TOP: {
        "types", "data", "backbone", "cascade", "labelling", "methods", "engine", "evaluation", "sandbox",
        "experiments", "integrations",
    },
}  # fmt: skip
"""Rooms (or single modules) that each room may import, besides itself and `errors`."""

ALONE: dict[str, set[str]] = {
    "PIL": {"data"},
    "torchvision": {"data"},
    "pandas": {"data", "top.api", "top.predictions"},
    "pyarrow": {"data", "top.api", "top.predictions"},
    "open_clip": {"backbone"},
    "lightning": {"engine"},
    "pytorch_lightning": set(),
    "torchmetrics": {"evaluation"},
    "matplotlib": {"evaluation"},
    "jsonargparse": {TOP},
    "docstring_parser": {TOP},
    "rich": {TOP, "evaluation.tables"},
    "tensorboard": {"engine"},
    "dassl": {"integrations"},
    "yacs": {"integrations"},
}
"""Who may name a library: a room, or `room.module`."""

ONLY: dict[str, set[str]] = {
    "errors": set(),
    "types": {"torch"},
    "cascade": {"torch"},
    "labelling": {"torch"},
    "sandbox": {"numpy", "torch", "safetensors"},
}
"""Rooms that may name nothing else outside the standard library."""

LIGHT = (
    "__init__", "__main__", "cli", "cli.entry", "config", "errors", "recipes", "methods.registry",
    "methods.catalogue", "methods.settings", "engine.schedules", "engine.atomic", "engine.records",
    "evaluation.protocol", "evaluation.tables", "data.classes", "data.texts", "experiments.kinds",
    "config_targets", "config_use", "data.emotions", "data.priors", "evaluation.ranks",
)  # fmt: skip
"""Modules whose import must stay quick: `--help`, wrong arguments and `import hybridcascade` rest on them."""

HEAVY = {
    "torch", "torchvision", "open_clip", "lightning", "torchmetrics", "matplotlib", "pandas", "pyarrow", "rich",
    "jsonargparse",
}  # fmt: skip

DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "open_clip": "open_clip_torch", "docstring_parser": "jsonargparse"}
"""Import name to distribution, where they differ; docstring_parser comes with jsonargparse[signatures]."""

ON_NO_INDEX = {"dassl"}
"""Frameworks that no package index has, so no extra can bring them: their adapters say how to get them."""

REGISTERS = {"integrations.dassl"}
"""Packages whose import is the act itself, as their framework's conventions want it: it registers trainers."""

MOST_FILE_LINES = 400
MOST_FUNCTION_LINES = 50


@dataclass(frozen=True)
class Import:
    """One import: what, where, and whether it runs when the module is imported."""

    target: str
    line: int
    at_import: bool
    runs: bool


@dataclass(frozen=True)
class Module:
    """One source file of the package."""

    name: str  # dotted, without the package: "cascade.fusion", "config", "__init__"
    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        first = self.name.split(".")[0]
        return first if first in MAY_IMPORT else TOP

    @property
    def place(self) -> str:
        return f"{TOP}.{self.name}" if self.room == TOP else self.name


def read_modules(source: Path) -> dict[str, Module]:
    modules = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        modules[name] = Module(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path)))
    assert modules, f"no source under {source}"
    return modules


def imports(module: Module, modules: dict[str, Module]) -> Iterator[Import]:
    """All imports of a module, literal `import_module("...")` calls included."""

    def visit(node: ast.AST, at_import: bool, runs: bool) -> Iterator[Import]:
        for target in named(node, module, modules):
            yield Import(target, getattr(node, "lineno", 0), at_import, runs)
        late = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        guarded = node.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) else []
        for child in ast.iter_child_nodes(node):
            typing_only = child in guarded
            yield from visit(child, at_import and not late and not typing_only, runs and not typing_only)

    yield from visit(module.tree, at_import=True, runs=True)


def named(node: ast.AST, module: Module, modules: dict[str, Module]) -> list[str]:
    """What one statement or call imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = absolute(module.name, module.path.name == "__init__.py", node)
        within = {a.name: inside(f"{base}.{a.name}") for a in node.names}
        return [f"{base}.{name}" if target in modules else base for name, target in within.items()]
    if isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
        return [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return []


def absolute(name: str, is_package: bool, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = [PACKAGE, *(name.split(".") if name != "__init__" else [])]
    parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*parts, *([node.module] if node.module else [])])


def called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def inside(target: str) -> str | None:
    """Name within the package, or None for another library."""
    if target == PACKAGE:
        return "__init__"
    return target.removeprefix(f"{PACKAGE}.") if target.startswith(f"{PACKAGE}.") else None


def allows(allowed: set[str], name: str) -> bool:
    return any(name == a or name.startswith(f"{a}.") for a in allowed)


def wrong_arrows(modules: dict[str, Module]) -> list[str]:
    found = []
    for module in modules.values():
        for item in imports(module, modules):
            target = inside(item.target)
            if target is None or allows({"errors", *MAY_IMPORT[module.room]}, target):
                continue
            to_top = target.split(".")[0] not in MAY_IMPORT
            if module.room == target.split(".")[0] and not to_top:
                continue
            if module.room == TOP and to_top and (target.split(".")[0] != "cli" or module.name in {"__main__"}):
                continue
            if module.name.split(".")[0] == "cli" and target.split(".")[0] == "cli":
                continue
            found.append(f"{module.name}:{item.line} imports {target}")
    return found


def wrong_libraries(modules: dict[str, Module]) -> list[str]:
    found = []
    for module in modules.values():
        for item in imports(module, modules):
            library = item.target.split(".")[0]
            if library == PACKAGE or library in sys.stdlib_module_names:
                continue
            alone = (
                library in ALONE
                and not allows(ALONE[library], module.room)
                and not allows(ALONE[library], module.place)
            )
            if alone or (module.room in ONLY and library not in ONLY[module.room]):
                found.append(f"{module.name}:{item.line} names {library}")
    return found


def undeclared(modules: dict[str, Module], project: Path) -> list[str]:
    table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    wanted = [*table["dependencies"], *(d for extra in table.get("optional-dependencies", {}).values() for d in extra)]
    declared = {re.split(r"[\[<>=~! ;]", d)[0].lower().replace("-", "_") for d in wanted}
    found = []
    for module in modules.values():
        for item in imports(module, modules):
            library = item.target.split(".")[0]
            if library != PACKAGE and library not in sys.stdlib_module_names and library not in ON_NO_INDEX:
                name = DISTRIBUTIONS.get(library, library).lower()
                if name not in declared:
                    found.append(f"{module.name}:{item.line} imports {library}, which pyproject.toml does not declare")
    return found


def edges(module: Module, modules: dict[str, Module], at_import: bool) -> set[str]:
    wanted = (inside(i.target) for i in imports(module, modules) if i.runs and (i.at_import or not at_import))
    return {t for t in wanted if t in modules and t != module.name}


def cycle(modules: dict[str, Module]) -> list[str]:
    """Some circle of imports that run, late ones included; empty when there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for target in sorted(edges(modules[name], modules, at_import=False)):
            if found := walk(target, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in modules if (found := walk(name, []))), [])


def loaded_by(name: str, modules: dict[str, Module]) -> dict[str, str]:
    """Libraries that importing a module loads, each with the module of ours that does."""
    reached, queue, libraries = {"__init__"}, [name, "__init__"], {}
    while queue:
        current = queue.pop()
        reached.add(current)
        parents = {".".join(current.split(".")[:i]) for i in range(1, current.count(".") + 1)}
        for item in imports(modules[current], modules):
            if item.at_import and inside(item.target) is None:
                libraries.setdefault(item.target.split(".")[0], current)
        queue += sorted((edges(modules[current], modules, at_import=True) | parents & modules.keys()) - reached)
    return libraries


def long_things(modules: dict[str, Module]) -> list[str]:
    found = []
    for module in modules.values():
        lines = len(module.path.read_text(encoding="utf-8").splitlines())
        if lines > MOST_FILE_LINES:
            found.append(f"{module.name} has {lines} lines")
        for node in ast.walk(module.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if ast.get_docstring(node):  # words are free
                    length -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
                if length > MOST_FUNCTION_LINES:
                    found.append(f"{module.name}:{node.lineno} {node.name} has {length} lines")
    return found


def prints(modules: dict[str, Module]) -> list[str]:
    found = []
    for module in modules.values():
        for node in ast.walk(module.tree):
            printing = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            stdout = isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.stdout"
            if (printing or stdout) and module.name.split(".")[0] != "cli":
                found.append(f"{module.name}:{node.lineno} writes to the terminal")
    return found


def busy_rooms(modules: dict[str, Module]) -> list[str]:
    """`__init__` files of rooms that hold more than their docstring; the package's and cli's may do light work."""
    free = {"__init__", "cli", *REGISTERS}
    packages = [m for m in modules.values() if m.path.name == "__init__.py" and m.name not in free]
    return [m.name for m in packages if len(m.tree.body) > 1 or ast.get_docstring(m.tree) is None]


MODULES = read_modules(SOURCE)


def test_only_the_arrows_of_the_table():
    assert wrong_arrows(MODULES) == []


def test_libraries_are_named_in_their_room_alone():
    assert wrong_libraries(MODULES) == []


def test_every_library_is_declared():
    assert undeclared(MODULES, ROOT / "pyproject.toml") == []


def test_no_circular_imports():
    assert " -> ".join(cycle(MODULES)) == ""


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_stay_light(name: str):
    assert {lib: by for lib, by in loaded_by(name, MODULES).items() if lib in HEAVY} == {}


def test_room_inits_hold_a_docstring_only():
    assert busy_rooms(MODULES) == []


def test_files_and_functions_are_short():
    assert long_things(MODULES) == []


def test_only_the_command_line_prints():
    assert prints(MODULES) == []


def test_every_room_of_the_table_is_described():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [room for room in MAY_IMPORT if room != TOP and f"`{room}" not in page] == []


PLANTED = {
    "arrow": ("data/x.py", "from hybridcascade.backbone import clip", wrong_arrows, "data.x:1 imports backbone"),
    "late arrow": ("cascade/x.py", "def f():\n    import hybridcascade.methods.base", wrong_arrows, "cascade.x:2"),
    "typing arrow": (
        "methods/x.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from hybridcascade.engine import run",
        wrong_arrows,
        "methods.x:3 imports engine",
    ),
    "dynamic arrow": (
        "data/x.py",
        "import importlib\nimportlib.import_module('hybridcascade.config')",
        wrong_arrows,
        "config",
    ),
    "relative arrow": ("data/x.py", "from ..engine import run", wrong_arrows, "data.x:1 imports engine"),
    "wrong module": (
        "engine/x.py",
        "from hybridcascade.methods import lafter",
        wrong_arrows,
        "engine.x:1 imports methods",
    ),
    "room to top": ("engine/x.py", "import hybridcascade.config", wrong_arrows, "engine.x:1 imports config"),
    "top to cli": ("api.py", "import hybridcascade.cli.entry", wrong_arrows, "api:1 imports cli.entry"),
    "library": ("engine/x.py", "import open_clip", wrong_libraries, "engine.x:1 names open_clip"),
    "late library": ("methods/x.py", "def f():\n    from PIL import Image", wrong_libraries, "methods.x:2 names PIL"),
    "only torch": ("cascade/x.py", "import numpy", wrong_libraries, "cascade.x:1 names numpy"),
    "pandas elsewhere": ("compose.py", "import pandas", wrong_libraries, "compose:1 names pandas"),
    "print": ("data/x.py", "print('x')", prints, "data.x:1"),
    "stdout": ("demo.py", "import sys\nsys.stdout.write('x')", prints, "demo:2"),
    "long file": ("data/x.py", "x = 1\n" * 401, long_things, "data.x has 401 lines"),
    "long function": ("data/x.py", "def f():\n" + "    x = 1\n" * 50, long_things, "f has 51 lines"),
    "busy init": ("data/__init__.py", "'''Room.'''\nimport os", busy_rooms, "data"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_each_rule_finds_a_planted_fault(name: str, tmp_path: Path):
    file, text, rule, message = PLANTED[name]
    for room in ("data", "backbone", "cascade", "methods", "engine", "cli"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text('"""Room."""')
    (tmp_path / "__init__.py").write_text('"""Package."""')
    assert rule(read_modules(tmp_path)) == []
    (tmp_path / file).write_text(text)
    found = rule(read_modules(tmp_path))
    assert len(found) == 1
    assert message in found[0]


def test_cycles_heavy_loads_and_undeclared_libraries_are_found(tmp_path: Path):
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "a.py").write_text("def f():\n    from hybridcascade import b")
    (tmp_path / "b.py").write_text("import hybridcascade.a, torch, unheard_of")
    modules = read_modules(tmp_path)
    assert cycle(modules) == ["a", "b", "a"]
    assert loaded_by("b", modules)["torch"] == "b"
    assert "torch" not in loaded_by("a", modules), "a late import does not load"
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["torch>=2"]')
    assert undeclared(modules, tmp_path / "pyproject.toml") == [
        "b:1 imports unheard_of, which pyproject.toml does not declare"
    ]
