"""The paper's tables 2 to 5 from evaluations, with the paper's own figures beside them.

``python -m lmsfe_sam.tables --runs runs/a/evaluation runs/b/evaluation --format md,tex,csv --output NAME``
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmsfe_sam.errors import InputError, plain_errors
from lmsfe_sam.evaluation.inputs import AUTHORS
from lmsfe_sam.evaluation.protocol import CONTROLS, FOREIGN, MATCHED_CONTROLS
from lmsfe_sam.evaluation.report.formatting import title
from lmsfe_sam.evaluation.report.published import ABLATION, METRICS, PUBLISHED, TABLES, TOGGLES
from lmsfe_sam.evaluation.report.runs import EvaluatedRun, check_same_split, estimate, lead, read_run, repeats
from lmsfe_sam.evaluation.statistics import Estimate
from lmsfe_sam.files import atomic_write, named_path, remove_leftovers_of

COLUMNS = (*METRICS, "hd95", "assd")
"""The paper's six metrics, and two of ours."""

HEADS = ("Dice", "IoU", "Se", "Sp", "Acc", "HD (px)", "HD95 (px)", "ASSD (px)")
PROMPTS = ("predictions", "box", "box_jitter_10", "point", "none")
"""Prompt modes that are shown unless told otherwise."""

ALWAYS = ("control_box", "control_ellipse", "control_ellipse_jitter_10")
"""Controls that are shown whatever the modes; the others where a mode gets the same box."""

LEAD = "Dice above the ellipse"
PAPER = "the paper"
OURS = "this project"


@dataclass
class Table:
    """One table: cells are text, an empty one has nothing to say.

    Attributes:
        caption: above it.
        heads: of its columns.
        rows: a row's cells.
        printed: indices of the rows that are the paper's own.
        notes: below it.
    """

    caption: str
    heads: list[str]
    rows: list[list[str]] = field(default_factory=list)
    printed: set[int] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def add(self, cells: Iterable[str], printed: bool = False) -> None:
        """Add a row; one of the paper's own is marked."""
        if printed:
            self.printed.add(len(self.rows))
        self.rows.append(list(cells))


def make_tables(runs: Sequence[EvaluatedRun], prompts: Sequence[str] = PROMPTS) -> list[Table]:
    """Return a table for each data set, table 5 where runs differ in their toggles, and one of the training.

    Args:
        runs: evaluations; those that differ in their seed alone become one row. Rows of one name get their
            folders' names, too.
        prompts: modes to show, of those that a run has.

    Raises:
        InputError: two runs on one data set were measured on different images or in different ways, or none
            has any of the modes.
    """
    sets: dict[str, list[EvaluatedRun]] = defaultdict(list)
    for run in runs:
        sets[str(run.summary["dataset"])].append(run)
    tables = []
    for name, own in sets.items():
        check_same_split(own)
        tables.append(_comparison(name, own, prompts))
    return tables + _ablations(sets, prompts) + _costs(runs)


def _comparison(dataset: str, runs: Sequence[EvaluatedRun], prompts: Sequence[str]) -> Table:
    first = runs[0]
    number = f"Table {TABLES[dataset]}: " if dataset in TABLES else ""
    what = "objects" if first.one_by_one else "images"
    images = f"{len(first.images)} {what}, split {first.summary.get('split') or 'not stated'}"
    table = Table(
        f"{number}{dataset}, {images}", ["Model", "Prompt", "Input", "Seeds", *HEADS, LEAD, "Source"]
    )
    seen: set[str] = set()
    rows = _rows(runs, prompts)
    names = Counter((name_of(seeds[0], mode), mode) for mode, seeds in rows)
    for i, (mode, seeds) in enumerate(rows):
        network = seeds[0].summary.get("network") or {}
        cells = [_interval(estimate(seeds, mode, column), column) for column in COLUMNS]
        size = str(network.get("image_size", ""))
        of_network = ["", ""] if mode == FOREIGN else [size, str(len(seeds))]
        name = name_of(seeds[0], mode)
        if names[name, mode] > 1:
            name += f" ({_place(seeds[0])})"
        above = lead(seeds, mode, runs)
        cells.append(f"{above.mean:+.3f} ({above.low:+.3f} to {above.high:+.3f})" if above else "")
        table.add([name, title(mode), *of_network, *cells, OURS])
        if i + 1 < len(rows) and rows[i + 1][1][0] is seeds[0]:
            continue  # the paper's row stands below all modes of a run
        base = _base(seeds[0])
        figures = PUBLISHED.get(dataset, {}).get(base)
        if figures and base not in seen:
            _add_published(table, base, figures)
        seen.add(base)
    if not any(row[-1] == OURS for row in table.rows):
        possible = ", ".join(dict.fromkeys(mode for run in runs for mode in run.modes))
        remedy = f"name some of {possible}" if possible else "evaluate a network, or --predictions, as well"
        raise InputError(
            f"prompts is {', '.join(prompts)}, but none of the runs on {dataset} has these modes: {remedy}."
        )
    for model, figures in PUBLISHED.get(dataset, {}).items():
        if model not in seen:
            _add_published(table, model, figures)
    for control in CONTROLS:
        found = [run for run in runs if control in run.summary["prompts"]]
        matched = any(MATCHED_CONTROLS.get(mode) == control for mode in prompts)
        if found and (matched or control in ALWAYS):
            cells = [_interval(estimate(found[:1], control, column), column) for column in COLUMNS]
            table.add([title(control), "", "", "", *cells, "", OURS])
    table.notes = _notes(runs, bool(table.printed))
    return table


def _add_published(table: Table, model: str, figures: Sequence[float]) -> None:
    cells = [f"{figure:.4f}" for figure in figures[:-1]]
    cells += [f"{figures[-1]:.1f} mm", "", "", ""]
    table.add([f"{model} †", "unsaid", "", "", *cells, PAPER], printed=True)


def _notes(runs: Sequence[EvaluatedRun], published: bool) -> list[str]:
    notes = ["In brackets 95 % intervals of the mean over the images (bootstrap over groups)."]
    if published:
        notes.append(
            "† as the paper prints it, on its own images and masks, with a prompt that it does not state, and"
            " an HD in mm although the published files hold no spacing: not to be compared with the rows "
            "measured here."
        )
    budgets = sorted({(run.summary.get("training") or {}).get("max_minutes") or 0 for run in runs})
    for budget in filter(None, budgets):
        of = "Rows" if len(budgets) == 1 else "Some rows"
        notes.append(f"{of} were trained with a budget of {budget:g} minutes of machine time each.")
    rows = _rows(runs, list(dict.fromkeys(mode for run in runs for mode in run.modes)))
    for mode, seeds in rows:
        if len(seeds) > 1 and mode == seeds[0].modes[0]:
            dice = [
                statistics.fmean(run.scores[image, mode]["dice"] for image in run.images) for run in seeds
            ]
            notes.append(
                f"{name_of(seeds[0])}, {title(mode)}: Dice of the seeds "
                f"{', '.join(f'{d:.3f}' for d in dice)}, deviation {statistics.stdev(dice):.3f}."
            )
    if any(run.summary.get("training") for run in runs) and all(len(seeds) == 1 for _, seeds in rows):
        notes.append("One seed a row: differences below the spread of seeds mean nothing.")
    return notes


def _ablations(sets: dict[str, list[EvaluatedRun]], prompts: Sequence[str]) -> list[Table]:
    presets = {
        run.summary["network"]["preset"]
        for own in sets.values()
        for run in own
        if (run.summary.get("network") or {}).get("preset")
    }
    tables = (_ablation(preset, sets, prompts) for preset in sorted(presets))
    return [table for table in tables if table is not None]


def _ablation(preset: str, sets: dict[str, list[EvaluatedRun]], prompts: Sequence[str]) -> Table | None:
    """Table 5 of one preset; None unless two of its rows are there."""
    found: dict[tuple[bool, ...], dict[str, list[EvaluatedRun]]] = defaultdict(dict)
    for dataset, own in sets.items():
        for run in own:
            network = run.summary.get("network") or {}
            if network.get("preset") == preset:
                toggles = tuple(bool(network.get(name)) for name in TOGGLES)
                found[toggles].setdefault(dataset, []).append(run)
    if len(found) < 2:
        return None
    known = ("busi", "ddti", "tn3k")
    names = [*(name for name in known if name in sets), *(name for name in sets if name not in known)]
    heads = ["Row", "LM encoder", "MHPM", "ViTA", "CBA", "Prompt", "Seeds"]
    table = Table(f"Table 5: ablation of {preset}", heads)
    table.heads += [f"{name} {metric}" for name in names for metric in ("Dice", "IoU")] + ["Source"]
    printed = {toggles: (row, figures) for row, (toggles, figures) in ABLATION.items()}
    for toggles in [*printed, *(toggles for toggles in found if toggles not in printed)]:
        row, figures = printed.get(toggles, ("other", {}))
        marks = ["yes" if on else "no" for on in toggles]
        by_set = found.get(toggles, {})
        for mode in prompts:
            lines = _by_training({name: repeats(runs, mode) for name, runs in by_set.items()})
            for line in lines:
                cells = []
                for name in names:
                    for column in ("dice", "iou"):
                        seeds = line.get(name)
                        cells.append(_interval(estimate(seeds, mode, column), column) if seeds else "")
                runs = max(line.values(), key=len)
                label = f"{row} ({_place(runs[0])})" if len(lines) > 1 else row
                table.add([label, *marks, title(mode), str(len(runs)), *cells, OURS])
        if figures and any(name in figures for name in names):
            cells = [f"{value:.4f}" for name in names for value in figures.get(name, ())]
            cells += [""] * (2 * len(names) - len(cells))
            table.add([f"{row} †", *marks, "unsaid", "", *cells, PAPER], printed=True)
    if table.printed:
        table.notes = [
            "† as the paper prints it, from SAM-Med2D's weights, with a prompt that it does not state."
        ]
    return table


def _costs(runs: Sequence[EvaluatedRun]) -> list[Table]:
    """What the training of each run cost; nothing where no run says so."""
    heads = ["Model", "Seed", "Input", "Device", "Precision", "Machine time (h)", "Peak memory (GiB)"]
    table = Table("Training", [*heads, "Passes through the training images"])
    for run in runs:
        cost = run.summary.get("training") or {}
        if cost.get("minutes") is None:
            continue
        size = (run.summary.get("network") or {}).get("image_size", "")
        passes = cost.get("steps", 0) / cost["steps_an_epoch"] if cost.get("steps_an_epoch") else None
        figures = ((cost["minutes"] / 60, 2), (cost.get("peak_memory_gib"), 1), (passes, 1))
        cells = ["" if value is None else f"{value:.{digits}f}" for value, digits in figures]
        said = [str(cost.get(key, "")) for key in ("seed", "device", "precision")]
        row = [name_of(run), said[0], str(size), *said[1:], *cells]
        if row not in table.rows:  # a network that was evaluated on two sets was trained once
            table.add(row)
    table.notes = ["Machine time is processor time on a CPU, and time on the clock on a GPU."]
    return [table] if table.rows else []


def _by_training(
    rows: dict[str, list[list[EvaluatedRun]]],
) -> list[dict[str, list[EvaluatedRun]]]:
    """Return lines of the rows of several data sets: those of one training, and of one turn, in one line."""
    lines: dict[tuple[str, int], dict[str, list[EvaluatedRun]]] = {}
    for name, own in rows.items():
        turns: Counter[str] = Counter()
        for seeds in own:
            key = seeds[0].key
            lines.setdefault((key, turns[key]), {})[name] = seeds
            turns[key] += 1
    return list(lines.values())


def _rows(runs: Sequence[EvaluatedRun], prompts: Sequence[str]) -> list[tuple[str, list[EvaluatedRun]]]:
    """Modes and the runs of one row, run by run in the order in which they were named."""
    order = {id(run): place for place, run in enumerate(runs)}
    rows = [(mode, seeds) for mode in dict.fromkeys(prompts) for seeds in repeats(runs, mode)]
    return sorted(rows, key=lambda row: order[id(row[1][0])])


def _place(run: EvaluatedRun) -> str:
    """Where a run lies, shortly: its folder and the one above."""
    return "/".join(run.folder.absolute().parts[-2:])


def _base(run: EvaluatedRun) -> str:
    """The paper's name of the model, where it has one."""
    network = run.summary.get("network") or {}
    if network.get("preset"):
        whole = all(network.get(name) for name in TOGGLES) and network["preset"] == "vit_b"
        return "LMSFE-SAM" if whole else ""
    return run.title.removesuffix(" small").removesuffix(" large")


def name_of(run: EvaluatedRun, mode: str | None = None) -> str:
    """Return the method behind a mode of a run: its network, or the program that made the masks."""
    if mode == FOREIGN:
        return Path(run.summary["predictions"]).name
    network = run.summary.get("network") or {}
    form = {"box": ", box as a channel", "none": ", image alone"}.get(network.get("prompt_form", ""), "")
    off = [name for name in TOGGLES if network.get("preset") and not network.get(name)]
    own_input = ", its authors' preprocessing" if run.summary.get("preprocessing") == AUTHORS else ""
    return run.title + form + own_input + (f" without {', '.join(off)}" if off else "")


def _interval(value: Estimate, column: str) -> str:
    digits = 1 if column in ("hd", "hd95", "assd") else 3
    return f"{value.mean:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


def to_markdown(table: Table) -> str:
    """Return a table as Markdown; the paper's own rows are in italics."""
    lines = [f"**{_plain(table.caption)}**", "", f"| {' | '.join(map(_plain, table.heads))} |"]
    lines.append("| --- " * len(table.heads) + "|")
    for i, row in enumerate(table.rows):
        cells = [f"*{_plain(cell)}*" if cell and i in table.printed else _plain(cell) for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *map(_plain, table.notes), ""])


_MARKDOWN = re.compile(r"[\\`*|<\[\]$~]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown takes for something else than itself; an underscore only at the end of a word."""


def _plain(text: str) -> str:
    return _MARKDOWN.sub(r"\\\g<0>", " ".join(text.split()))


def to_latex(table: Table) -> str:
    """Return a table as LaTeX, for ``booktabs``; the paper's own rows are in italics."""
    lines = [
        r"\begin{table}",
        rf"\caption{{{_escape(table.caption)}}}",
        rf"\begin{{tabular}}{{{'l' * len(table.heads)}}}",
    ]
    lines += [r"\toprule", " & ".join(map(_escape, table.heads)) + r" \\", r"\midrule"]
    for i, row in enumerate(table.rows):
        cells = [
            rf"\textit{{{_escape(cell)}}}" if cell and i in table.printed else _escape(cell) for cell in row
        ]
        lines.append(" & ".join(cells) + r" \\")
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        *(_escape(note) + r"\\" for note in table.notes),
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


_LATEX = str.maketrans(
    {sign: "\\" + sign for sign in "&%_#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {sign: "{" + sign + "}" for sign in "[]*"}  # behind the end of a row they would be its options
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "†": r"$\dagger$"}
)


def _escape(text: str) -> str:
    return " ".join(text.split()).translate(_LATEX)


def to_csv(table: Table) -> str:
    """Return a table as CSV, its caption in a first column."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["Table", *table.heads])
    writer.writerows([table.caption, *row] for row in table.rows)
    return stream.getvalue()


FORMATS: dict[str, Callable[[Table], str]] = {"md": to_markdown, "tex": to_latex, "csv": to_csv}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print or write the tables of some evaluations."""
    parser = argparse.ArgumentParser(
        prog="python -m lmsfe_sam.tables", description="Print the paper's tables from evaluations."
    )
    parser.add_argument("--runs", nargs="+", required=True, help="output folders of run evaluating")
    parser.add_argument(
        "--format", default="md", help=f"some of {','.join(FORMATS)}, with commas between them"
    )
    parser.add_argument("--prompts", nargs="+", default=list(PROMPTS), help="prompt modes to show")
    parser.add_argument(
        "--output", type=named_path, help="file name without ending to write to; else printed"
    )
    options = parser.parse_args(arguments)
    formats = options.format.split(",")
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"format '{name}' is unknown: give some of {', '.join(FORMATS)}.")
    base: Path | None = options.output
    if base is not None and base.name in ("", ".."):
        raise InputError(f"output '{base}' is a folder: give the name of a file in it, without its ending.")
    files = {} if base is None else {name: base.with_name(f"{base.name}.{name}") for name in formats}
    remove_leftovers_of(*files.values())
    tables = make_tables([read_run(path) for path in options.runs], options.prompts)
    for name in formats:
        text = "\n".join(FORMATS[name](table) for table in tables)
        if not files:
            print(text)
            continue
        with atomic_write(files[name]) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    plain_errors()
    main()
