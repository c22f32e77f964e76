"""`hybridcascade convert`: files of CoOp, Dassl and LaFTer become recipes and manifests."""

from __future__ import annotations

import shlex
from pathlib import Path

from hybridcascade.cli.parsing import CommandParser
from hybridcascade.cli.terminal import Terminal, command_output
from hybridcascade.errors import OutputExistsError, SettingsError
from hybridcascade.integrations.convert_recipe import convert_recipe
from hybridcascade.integrations.convert_split import convert_split

__all__ = ["parser", "run"]

_EXAMPLES = """
hybridcascade convert configs/datasets/eurosat.yaml configs/trainers/CoOp/vit_b16.yaml --out recipe.yaml
hybridcascade convert configs/trainers/text_cls/vit_b32.yaml --flags "--trainer LaFTer --lr 0.0005" --out recipe.yaml
hybridcascade convert oxford_pets/split_zhou_OxfordPets.json --images oxford_pets/images --out oxford_pets/manifest.csv
"""


def parser() -> CommandParser:
    """Return the parser of the command."""
    summary = "Turn YAML configurations (CoOp, Dassl, LaFTer) into a recipe, or a split_zhou file into a manifest."
    made = CommandParser("convert", summary, _EXAMPLES)
    made.add_argument("inputs", metavar="FILE", nargs="+", help="YAML files, later ones go first; or one split .json")
    made.add_argument("--out", metavar="FILE", help="recipe (.yaml) or manifest (.csv) to write; left out: stdout")
    made.add_argument("--flags", metavar="WORDS", help="the flags of the old command line, in quotes")
    made.add_argument("--images", metavar="FOLDER", help="folder of the split's pictures (default: images beside it)")
    made.add_argument("--classes_out", metavar="FILE", help="class names to write, in the order of the split's numbers")
    made.add_argument("--overwrite", action="store_true", help="replace the files that are there")
    return made


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().read(_with_flags(arguments))
    inputs = [str(file) for file in options.inputs]
    split = [file for file in inputs if file.lower().endswith(".json")]
    if split and (len(inputs) > 1 or options.flags):
        raise SettingsError(f"a split file is converted alone, without --flags; got {', '.join(inputs)}")
    if not split and (options.images or options.classes_out):
        raise SettingsError("--images and --classes_out belong to a split file (.json)")
    _check_free([options.out, options.classes_out], options.overwrite)
    with command_output(options.json, options.quiet, options.verbose) as terminal:
        if split:
            _split(terminal, split[0], options.images, options.out, options.classes_out)
        else:
            _recipe(terminal, inputs, shlex.split(options.flags or ""), options.out)
    return 0


def _recipe(terminal: Terminal, files: list[str], flags: list[str], out: str | None) -> None:
    found = convert_recipe(files, flags)
    if out:
        found.save(out)
    if terminal.as_json:
        groups = {"unknown": found.unknown, "left_out": found.left_out}
        listed = {
            name: [{"key": k.key, "value": k.value, "note": k.note} for k in keys] for name, keys in groups.items()
        }
        terminal.json({"recipe": found.recipe, "out": out, **listed})
    else:
        terminal.data(out or found.text())
    for key in found.keys:
        arrow = f"-> {key.became}" if key.became else "unknown" if not key.known else "left out"
        terminal.say(f"{key.key}: {key.value!r} {arrow}{f' ({key.note})' if key.note else ''}")
    if found.assumed:
        terminal.say(found.assumed)
    if found.unknown:
        terminal.say(f"{len(found.unknown)} keys are unknown: nothing was made of them")
    terminal.next(f"train --config {out or 'RECIPE'} --data PICTURES --classes CLASSES")


def _split(terminal: Terminal, file: str, images: str | None, out: str | None, classes_out: str | None) -> None:
    folder = Path(images) if images else Path(file).parent / "images"
    if images is None and not folder.is_dir():
        folder = Path(file).parent
    found = convert_split(file, folder, out or Path(file).parent / "manifest.csv")
    if out:
        found.save(out, classes_out)
    elif classes_out:
        raise SettingsError("--classes_out needs --out for the manifest")
    if terminal.as_json:
        terminal.json({"out": out, "pictures": found.counts, "classes": list(found.classes)})
    else:
        terminal.data(out or found.text())
    counts = ", ".join(f"{count} {split}" for split, count in found.counts.items())
    terminal.say(f"{counts}; {len(found.classes)} classes")
    terminal.next(f"train --data {out or 'MANIFEST.csv'} --split train --out runs/mine")


def _with_flags(arguments: list[str]) -> list[str]:
    """Join `--flags` and its value, which begins like an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--flags":
            joined[-1] = f"--flags={argument}"
        else:
            joined.append(argument)
    return joined


def _check_free(files: list[str | None], overwrite: bool) -> None:
    for file in files:
        if file and Path(file).exists() and not overwrite:
            raise OutputExistsError(
                f"{file} exists already; nothing was changed. Name another file, or say --overwrite"
            )
