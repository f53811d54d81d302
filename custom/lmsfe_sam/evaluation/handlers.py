"""The evaluator's handler: collects the results and writes everything at the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from numpy.typing import NDArray

from lmsfe_sam import distributed
from lmsfe_sam.data.transforms.loading import load_image_and_mask
from lmsfe_sam.evaluation.comparison import OtherRun
from lmsfe_sam.evaluation.normal import false_positives
from lmsfe_sam.evaluation.protocol import is_control
from lmsfe_sam.evaluation.report import writing
from lmsfe_sam.evaluation.report.formatting import title
from lmsfe_sam.evaluation.report.page import write_report
from lmsfe_sam.evaluation.results import ImageResult
from lmsfe_sam.evaluation.summary import RunInfo, Summary, summarise
from lmsfe_sam.files import close_logs

logger = logging.getLogger(__name__)


class EvaluationWriter:
    """Handler: collects each iteration's `ImageResult`, and writes tables, summary, report and masks.

    Under torchrun every process collects its own and the first one writes.

    Args:
        records: of all images of the run, in the order of the tables; ``normal`` ones count apart.
        info: what is evaluated.
        output_dir: the folder to write into.
        others: runs to compare with.
        save_masks: whether to write the network's masks.
        gallery: best, median and worst cases a mode in the report; 0 for none.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        info: RunInfo,
        output_dir: str,
        others: Sequence[OtherRun] = (),
        save_masks: bool = True,
        gallery: int = 3,
    ) -> None:
        self.records = {str(record["name"]): record for record in records}
        self.info = info
        self.folder = Path(output_dir)
        self.others = list(others)
        self.save_masks = save_masks
        self.gallery = gallery
        self.results: list[ImageResult] = []

    def attach(self, engine: Engine) -> None:
        """Register with the evaluator."""
        engine.add_event_handler(Events.STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def begin(self, engine: Engine) -> None:
        """Clear the results of an earlier run of the engine."""
        self.results = []

    def __call__(self, engine: Engine) -> None:
        """Collect an iteration's results."""
        output: Any = engine.state.output
        self.results.extend(output)

    def finish(self, engine: Engine) -> None:
        """Write everything, on the first process, and let others have the folder.

        Raises:
            InputError: a file cannot be written.
        """
        gathered = distributed.gather(self.results)
        if gathered is None:
            return
        by_name = {result.image: result for result in gathered}
        records = [record for record in self.records.values() if not record.get("normal")]
        healthy = [record for record in self.records.values() if record.get("normal")]
        results, normal = ([by_name[str(one["name"])] for one in some] for some in (records, healthy))
        groups = _groups(records)
        summary = summarise(
            results,
            groups=groups,
            labels=[record.get("subgroup") or {} for record in records],
            info=self.info,
            others=self.others,
            normal=false_positives(normal, _groups(healthy), self.info.seed, self.info.bootstrap),
        )
        writing.remove_results(self.folder)
        writing.write_metrics(results, self.folder / writing.METRICS)
        writing.write_images(results, groups, self.folder / "images.csv")
        if results[0].masks:
            writing.write_predictions(results, self.folder / "predictions.csv")
        if normal:
            writing.write_normal(normal, self.folder / writing.NORMAL)
        if summary.curves is not None:
            writing.write_curves(results, self.folder / "curves.csv")
        writing.write_subgroups(summary.subgroups, self.folder / "subgroups.csv")
        if self.save_masks:
            writing.write_masks([*results, *normal], self.folder)
        write_report(summary, results, self.folder / "report.html", self._read, self.gallery)
        # Last, so that a summary says that all the rest is there.
        writing.write_summary(summary, self.folder / writing.SUMMARY)
        report = f"Report: {self.folder / 'report.html'}"
        logger.info("%s\n%s%s%s", _table(summary), _false_positives(summary), _paired_table(summary), report)
        close_logs()

    def _read(self, name: str) -> NDArray[np.uint8]:
        return load_image_and_mask(self.records[name])[0]


def _groups(records: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(record.get("group") or record["name"]) for record in records]


def _false_positives(summary: Summary) -> str:
    """Return what was segmented on normal images for the log; empty without any."""
    lines = [
        f"normal images, {title(mode)}: something segmented on {own.share.mean:.1%} of {own.n_images} "
        f"({own.share.low:.1%} to {own.share.high:.1%}), mean area {own.area.mean:.2%} of the picture\n"
        for mode, own in summary.normal.items()
    ]
    return "".join(lines)


def _table(summary: Summary) -> str:
    """Return a table of the means for the log."""
    lines = [f"{'prompt':<28}{'Dice':>7}{'95 % interval':>18}{'IoU':>8}{'HD':>8}"]
    for mode, columns in summary.prompts.items():
        dice = columns["dice"]
        interval = f"{dice.low:.3f} to {dice.high:.3f}"
        lines.append(
            f"{mode:<28}{dice.mean:>7.3f}{interval:>18}{columns['iou'].mean:>8.3f}{columns['hd'].mean:>8.1f}"
        )
    return "\n".join(("", *lines))


def _paired_table(summary: Summary) -> str:
    """Return this run minus each other one, image by image, for the log; empty without any."""
    if not summary.comparisons:
        return ""
    lines = [
        f"this run minus {'prompt':<32}{'Dice':>8}{'95 % interval':>20}{'wins':>7}{'losses':>8}{'HD':>9}"
    ]
    for comparison in summary.comparisons:
        alone = f", {comparison.only_here} in this run alone and {comparison.only_there} in the other"
        alone = alone if comparison.only_here or comparison.only_there else ""
        lines.append(f"{comparison.path} (images in both: {comparison.n_images}{alone})")
        if comparison.same_protocol is False:
            lines.append("  their controls differ: other masks, another size or seed, so this means little")
        differences = {mode: own for mode, own in comparison.differences.items() if not is_control(mode)}
        if not differences:
            lines.append("  they have no prompt mode but controls in common")
        for mode, columns in differences.items():
            dice, hd = columns["dice"], columns["hd"]
            interval = f"{dice.mean.low:+.3f} to {dice.mean.high:+.3f}"
            lines.append(
                f"{'':<15}{mode:<32}{dice.mean.mean:>+8.3f}{interval:>20}{dice.wins:>7}{dice.losses:>8}"
                f"{hd.mean.mean:>+9.1f}"
            )
    return "\n".join((*lines, ""))
