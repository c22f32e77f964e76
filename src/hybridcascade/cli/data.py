"""`hybridcascade data`: look through a data set, or write it as a manifest."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hybridcascade.cli.parsing import CommandParser
from hybridcascade.cli.terminal import Terminal, command_output
from hybridcascade.data.readers.catalogue import AUTO, READERS, check_format
from hybridcascade.data.readers.splits import parse_rule
from hybridcascade.engine.atomic import write_text
from hybridcascade.errors import OutputExistsError, SettingsError, UnknownNameError

if TYPE_CHECKING:
    from hybridcascade.data.survey import Survey

__all__ = ["parser", "run"]

_EXAMPLES = """
hybridcascade data inspect Emotion6/ --html emotion6.html
hybridcascade data inspect votes.csv --json
hybridcascade data inspect EmoSet-118K/ --format emoset --no_pictures
hybridcascade data manifest Emotion6/ --make_split hash:0.8 --out Emotion6/manifest.csv
hybridcascade data formats
"""
_ACTIONS = ("inspect", "manifest", "formats")
_LISTED = 3


def parser() -> CommandParser:
    """Return the parser of the command."""
    summary = "Look through a data set: format, counts, balance, votes, what is missing, unreadable or there twice."
    made = CommandParser("data", summary, _EXAMPLES)
    made.add_argument("action", metavar="ACTION", help="inspect, manifest (write one) or formats (list the layouts)")
    made.add_argument("path", metavar="PATH", nargs="?", help="a folder, .zip, manifest or split_zhou_*.json")
    made.add_argument("--format", metavar="NAME", default=AUTO, help="layout: auto, none, or one of `data formats`")
    made.add_argument("--make_split", metavar="RULE", help="split for data without one: hash:0.8, or hash:0.7,0.1")
    made.add_argument("--html", metavar="FILE", help="inspect: also write a page with a contact sheet")
    made.add_argument("--no_pictures", action="store_true", help="inspect: leave the pictures closed")
    made.add_argument("--out", metavar="FILE", help="manifest: .csv to write, in the folder of the data or above it")
    made.add_argument("--overwrite", action="store_true", help="replace the file that is there")
    return made


def run(arguments: list[str]) -> int:
    """Run the command; return its exit code."""
    options = parser().read(arguments)
    if options.action not in _ACTIONS:
        raise UnknownNameError("action", options.action, _ACTIONS)
    check_format(options.format)
    if options.make_split:
        parse_rule(options.make_split)
    if options.action != "formats" and options.path is None:
        raise SettingsError(f"say what to look at: hybridcascade data {options.action} PATH")
    if options.html and options.no_pictures:
        raise SettingsError("--html shows the pictures; leave out --no_pictures")
    for file in (options.html, options.out):
        if file and Path(file).exists() and not options.overwrite:
            raise OutputExistsError(f"{file} exists already; nothing was changed. Name another, or say --overwrite")
    with command_output(options.json, options.quiet, options.verbose) as terminal:
        if options.action == "formats":
            _formats(terminal)
        elif options.action == "manifest":
            _manifest(terminal, options.path, options.format, options.make_split, options.out)
        else:
            _inspect(terminal, options.path, options.format, options.make_split, options.html, options.no_pictures)
    return 0


def _formats(terminal: Terminal) -> None:
    if terminal.as_json:
        terminal.json({r.name: {"title": r.title, "files": r.files, "options": r.options} for r in READERS.values()})
        return
    for reader in READERS.values():
        terminal.data(f"{reader.name:<12} {reader.title}: {reader.files}")
        for key, values in reader.options.items():
            terminal.data(f"{'':<12}   @{key}={'|'.join(values)}")


def _inspect(terminal: Terminal, path: str, form: str, make_split: str | None, html: str | None, closed: bool) -> None:
    from hybridcascade.data.survey import survey

    found = survey(path, form, make_split, decode=not closed)
    if html:
        from hybridcascade.data.survey_page import survey_page

        write_text(html, survey_page(found))
    if terminal.as_json:
        terminal.json(found.plain() | {"html": html})
    else:
        terminal.data(_report(found, closed))
    if html:
        terminal.say(f"page: {html}")


def _report(found: Survey, closed: bool) -> str:
    lines = [f"{found.path}: {found.format}", *found.remarks, f"{found.pictures:,} pictures; {_counts(found.splits)}"]
    if found.split_source:
        lines.append(f"split: {found.split_source}")
    if found.classes:
        lines += ["", *_balance(found)]
    if found.votes:
        low, high = found.votes["smallest_sum"], found.votes["largest_sum"]
        each = f"{low:.4g}" if f"{low:.4g}" == f"{high:.4g}" else f"{low:.4g} to {high:.4g}"
        zeros = f"{100 * found.votes['share_of_zeros']:.1f}% of the entries are zero"
        lines += ["", f"votes: {found.votes['pictures']:,} pictures, summing to {each}; {zeros}"]
    lines += ["", *_keywords(found)] if found.keywords else [""]
    if found.votes:
        lines += _listing("ties of votes", found.ties)
        lines += _listing("label is not the class with most votes", found.against_votes)
    lines += _listing("missing", found.missing)
    lines += [f"left out: {count:,} ({why})" for why, count in found.left_out.items()]
    if closed:
        lines.append("unreadable and alike: not looked for (--no_pictures)")
    else:
        lines += _listing("unreadable", [reason for _, reason in found.unreadable])
        pairs = [f"{pair.first} ({pair.splits[0]}) and {pair.second} ({pair.splits[1]})" for pair in found.leaks]
        lines += [f"alike: {len(found.pairs):,} pairs", *_listing("alike across splits", pairs)]
    return "\n".join(lines)


def _balance(found: Survey) -> list[str]:
    header = ["class", "pictures", "share", *(["of votes"] if found.vote_mass else []), *found.splits]
    rows = []
    for name, counts in found.balance.items():
        total = sum(counts.values())
        row = [name, f"{total:,}", f"{100 * total / found.pictures:.1f}%"]
        if found.vote_mass:
            row.append(f"{100 * found.vote_mass[name]:.1f}%" if name in found.vote_mass else "")
        rows.append([*row, *(f"{count:,}" for count in counts.values())])
    return _aligned(header, rows)


def _keywords(found: Survey) -> list[str]:
    same, total = found.keyword_agreement or (0, 0)
    rows = [[word, *(str(row.get(name, 0)) for name in found.classes)] for word, row in found.keywords.items()]
    return [
        "keyword (rows) against label (columns)",
        *_aligned(["", *found.classes], rows),
        f"the same on {same:,} of {total:,} pictures ({100 * same / max(total, 1):.1f}%)",
    ]


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _listing(title: str, names: Sequence[str]) -> list[str]:
    shown = [f"  {name}" for name in names[:_LISTED]]
    more = [f"  and {len(names) - _LISTED:,} more"] if len(names) > _LISTED else []
    return [f"{title}: {len(names):,}", *shown, *more]


def _counts(splits: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {split}" for split, count in splits.items())


def _manifest(terminal: Terminal, path: str, form: str, make_split: str | None, out: str | None) -> None:
    from hybridcascade.data.readers.catalogue import read_dataset
    from hybridcascade.errors import DataError

    found = read_dataset(path, form, make_split)
    if found is None:
        raise DataError(f"{path}: no published layout was recognised; `hybridcascade data formats` lists them")
    above, archive = _place(Path(path), Path(out) if out else None)
    facts = sorted({key for row in found.rows for key in row.facts})
    voted = any(row.votes is not None for row in found.rows)
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    columns = [*(["zip"] if archive else []), "path", "label", "split", "keyword", *facts]
    writer.writerow([*columns, *(f"votes_{name}" for name in found.classes if voted)])
    for row in found.rows:
        cells = [*([archive] if archive else []), above + found.root + row.path]
        cells += ["" if row.label is None else found.classes[row.label], row.split or "", row.keyword or ""]
        cells += [row.facts.get(key, "") for key in facts]
        writer.writerow([*cells, *(f"{vote:g}" for vote in row.votes or ())])
    if out:
        write_text(out, sheet.getvalue())
    if terminal.as_json:
        terminal.json({"out": out, "format": found.format, "pictures": len(found.rows), "split": found.split})
    else:
        terminal.data(out or sheet.getvalue())
    for remark in found.remarks:
        terminal.say(remark)
    terminal.next(f"train --data {out or 'MANIFEST.csv'} --out runs/mine")


def _place(path: Path, out: Path | None) -> tuple[str, str]:
    """What stands before each path in the manifest, and the archive that holds the pictures, or empty strings."""
    folder = path if path.is_dir() else path.parent
    home = out.parent if out else folder
    try:
        below = folder.resolve().relative_to(home.resolve()).as_posix()
    except ValueError as error:
        raise SettingsError(
            f"--out {out}: the pictures must lie below the manifest's folder; write it into {folder} or above"
        ) from error
    start = "" if below == "." else f"{below}/"
    return ("", start + path.name) if path.suffix.lower() == ".zip" else (start, "")
