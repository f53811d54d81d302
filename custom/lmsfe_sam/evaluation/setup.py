"""Before an evaluation starts: its options, its images and its network, refused early if they are wrong."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lmsfe_sam.data.datalist import DataList, effective_split
from lmsfe_sam.data.painting import CHOICES
from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.comparison import OtherRun, check_overlap, read_metrics
from lmsfe_sam.evaluation.protocol import network_modes, parse_modes
from lmsfe_sam.evaluation.summary import RunInfo
from lmsfe_sam.files import ensure_folder
from lmsfe_sam.model.checkpoints import network_from_checkpoint, read_description
from lmsfe_sam.model.weight_files import sha256
from lmsfe_sam.settings import (
    Test,
    check_device,
    check_values,
    folders_of,
    one_of,
    text,
    text_or_texts,
    true_or_false,
    whole,
)
from lmsfe_sam.version import __version__

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test", "all")
SMALLEST_SIZE = 16

RULES: dict[str, tuple[Test, str]] = {
    "dataset_dir": text_or_texts(or_none=True),
    "layout": text(),
    "split_rule": text(),
    "split": (lambda value: value is None or one_of(SPLITS)[0](value), f"{one_of(SPLITS)[1]}, or null"),
    "checkpoint": text(),
    "output_dir": text(),
    "metric_size": (
        lambda value: value == "native" or whole(SMALLEST_SIZE)[0](value),
        f"native or {whole(SMALLEST_SIZE)[1]}",
    ),
    "markings": (lambda value: value in CHOICES, "note, paint_out or null"),
    "curves": true_or_false(),
    "compare": text(or_none=True),
    "save_masks": true_or_false(),
    "gallery": whole(0),
    "bootstrap": whole(1),
    "seed": whole(0),
    "batch_size": whole(1),
    "num_workers": whole(0),
    "amp": true_or_false(),
}
"""What each key of the evaluation's config may be, but for ``prompt_modes`` and the network's own keys."""


class NoNetwork(nn.Module):
    """Stands where the network would, in a run of controls alone."""

    image_size = 256

    def forward(self, image: Tensor) -> Tensor:
        """Refuse any ``image``: there is nothing to run.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("controls ask no network")

    def describe(self) -> dict[str, Any]:
        """Return nothing: there is nothing to describe."""
        return {}


def check_settings(device: Any, prompt_modes: Any, **values: Any) -> None:
    """Hold the values of the evaluation's config against `RULES`, and prove that it can write.

    Raises:
        InputError: naming the key, the value and what would be right.
    """
    check_values(RULES, values)
    parse_modes(prompt_modes)
    check_device(device)
    dataset_dir, output_dir = values["dataset_dir"], Path(values["output_dir"])
    for folder in folders_of(dataset_dir):
        _refuse_output_among_data(output_dir, Path(folder).expanduser())
    if values["compare"] is not None:
        read_metrics(values["compare"])
    ensure_folder(output_dir, "output_dir")


def evaluated_network(checkpoint: str, modes: Sequence[str], **expected: Any) -> nn.Module:
    """Return the network of a checkpoint, or `NoNetwork` where ``modes`` holds controls alone.

    Args:
        checkpoint: a ``.pt`` file of this project.
        modes: prompt modes, as `protocol.parse_modes` returns them.
        expected: preset, image size and toggles that the user expects it to have; None for whatever it has.

    Raises:
        InputError: the file is no checkpoint of this project, or is another network than expected.
    """
    if not network_modes(modes):
        return NoNetwork()
    preset = expected.pop("preset", None)
    held = read_description(checkpoint, preset)
    for key, value in expected.items():
        if value is not None and value != held.get(key):
            raise InputError(
                f"{key} {value} contradicts checkpoint '{checkpoint}', which was made with {held.get(key)}: "
                f"leave out --{key} or name another checkpoint."
            )
    return network_from_checkpoint(checkpoint, preset)


def choose_split(datalist: DataList, split: str | None, dataset_dir: str | Sequence[str] | None) -> str:
    """Return the split to evaluate: the one named, else the test images or, where nobody set any apart, all.

    Of phantoms the test ones are apart by their making.
    """
    if split is not None:
        return split
    return "test" if dataset_dir is None else effective_split(datalist)


def read_other_run(compare: str | None, names: Sequence[str], modes: Sequence[str]) -> OtherRun | None:
    """Return the run to compare with, or None where none is named.

    Raises:
        InputError: it is no ``metrics.csv``, or shares nothing with this run.
    """
    if compare is None:
        return None
    other = read_metrics(compare)
    check_overlap(other, names, modes)
    return other


def describe_run(
    datalist: DataList,
    split: str,
    checkpoint: str,
    network: Any,
    metric_size: int | str,
    seed: int,
    bootstrap: int,
) -> RunInfo:
    """Gather what the summary and the report say about a run."""
    alone = isinstance(network, NoNetwork)
    return RunInfo(
        dataset=datalist.name,
        split=split,
        checkpoint=None if alone else str(checkpoint),
        checkpoint_sha256=None if alone else sha256(checkpoint),
        network=network.describe(),
        metric_size=metric_size,
        seed=seed,
        bootstrap=bootstrap,
        version=__version__,
    )


def announce(datalist: DataList, split: str, dataset_dir: str | Sequence[str] | None, count: int) -> None:
    """Say what is evaluated; loudly, where it is phantoms."""
    if dataset_dir is not None:
        logger.info("Evaluating %d images, %s of %s", count, f"split {split}", datalist.summary())
        return
    lines = (
        "EVALUATION ON SYNTHETIC PHANTOMS: no --dataset_dir was given.",
        f"These {count} made-up images say nothing about patients. To evaluate on real ones add",
        "    --dataset_dir FOLDER",
        "where FOLDER holds images/ and masks/, or one of the public sets in its own layout.",
    )
    width = max(map(len, lines)) + 4
    frame = "*" * width
    logger.warning("\n%s", "\n".join((frame, *(f"* {line:<{width - 4}} *" for line in lines), frame)))


def _refuse_output_among_data(output_dir: Path, dataset_dir: Path) -> None:
    """The folder ``masks`` written here would be taken for the data set's own."""
    output, data = output_dir.expanduser().resolve(), dataset_dir.resolve()
    if output == data or data in output.parents:
        raise InputError(
            f"output_dir '{output_dir}' lies in dataset_dir '{dataset_dir}': name a folder outside of it, "
            "so that predictions never mix with the data."
        )
