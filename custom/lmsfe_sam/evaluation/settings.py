"""Before an evaluation: check the options, choose the images, the network and the run to compare with."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lmsfe_sam.baselines.checkpoints import build_described, load_network
from lmsfe_sam.data.combined import folders_of
from lmsfe_sam.data.datalist import DataList, effective_split
from lmsfe_sam.distributed import check_device_and_precision, is_main_process
from lmsfe_sam.errors import InputError
from lmsfe_sam.evaluation.comparison import OtherRun, check_overlap, read_metrics
from lmsfe_sam.evaluation.inputs import AUTHORS, OURS
from lmsfe_sam.evaluation.protocol import ANNOTATED_MODES, MODES, kind_of, network_modes, parse_modes
from lmsfe_sam.evaluation.report.writing import MASKS
from lmsfe_sam.evaluation.summary import RunInfo
from lmsfe_sam.files import LockedLog, ensure_folder, read_text, remove_leftovers
from lmsfe_sam.model.network import PROMPT_KINDS
from lmsfe_sam.model.weights.checks import sha256
from lmsfe_sam.options import EvaluationOptions, check_options
from lmsfe_sam.settings import framed
from lmsfe_sam.version import __version__

logger = logging.getLogger(__name__)

LOG = "evaluation.log"

MACHINE_TIME = "machine_time.json"
"""What training writes beside its checkpoint."""


class NoNetwork(nn.Module):
    """Takes the network's place in a run of controls alone."""

    image_size = 256
    prompt_kinds = PROMPT_KINDS

    def forward(self, image: Tensor) -> Tensor:
        """Refuse any ``image``: there is nothing to run.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("controls need no network")

    def describe(self) -> dict[str, Any]:
        """Return nothing: there is nothing to describe."""
        return {}


def check_settings(options: Mapping[str, Any]) -> None:
    """Check the options of the evaluation's config, and that the output folder can be written to.

    Raises:
        InputError: naming the key, the value and what would be right.
    """
    check_options(EvaluationOptions, options)
    parse_modes(options["prompt_modes"])
    check_device_and_precision(options["device"], options["amp"])
    output_dir = Path(options["output_dir"])
    for folder in folders_of(options["dataset_dir"]):
        _refuse_output_among_data(output_dir, Path(folder).expanduser())
    if options["predictions"]:
        _refuse_masks_to_be_replaced(output_dir, Path(options["predictions"]))
    for other in _listed(options["compare"]):
        read_metrics(other)
    ensure_folder(output_dir, "output_dir")


def lock_folder(output_dir: str) -> None:
    """Have the output folder for this run alone, and log into it; the first of several processes does.

    What a killed evaluation left half written is removed.

    Raises:
        InputError: another evaluation writes there.
    """
    if is_main_process():
        log = LockedLog(Path(output_dir) / LOG, "evaluation")
        log.empty()
        remove_leftovers(Path(output_dir))
        logging.getLogger("lmsfe_sam").addHandler(log)


def evaluated_network(checkpoint: str, modes: Sequence[str], **expected: Any) -> nn.Module:
    """Build the network of a checkpoint, or `NoNetwork` where ``modes`` holds controls alone.

    Args:
        checkpoint: a ``.pt`` file of this project.
        modes: prompt modes, as `protocol.parse_modes` returns them.
        expected: preset, image size and toggles that the user expects it to have; None for whatever it has.

    Raises:
        InputError: the file is not a checkpoint of this project, or is another network than expected.
    """
    if not network_modes(modes):
        return NoNetwork()
    preset = expected.pop("preset", None)
    network: Any = build_described(checkpoint, preset)
    held = network.describe()
    for key, value in expected.items():
        if value is not None and value != held.get(key):
            raise InputError(
                f"{key} {value} contradicts checkpoint '{checkpoint}', which was made with {held.get(key)}: "
                f"leave out --{key} or name another checkpoint."
            )
    return network


def ready_network(
    network: Any,
    checkpoint: str,
    modes: Sequence[str],
    image_size: int | None = None,
    prompt_form: str | None = None,
    multimask: str | None = None,
) -> nn.Module:
    """Return the network in the form that the evaluation calls, with its weights.

    Args:
        network: of `evaluated_network`, or what a config names in its place: a baseline, or a network that
            takes no prompts, from ``(B,C,H,W)`` to logits ``(B,1,H,W)``.
        checkpoint: of this project, or the published file of a baseline.
        modes: prompt modes.
        image_size: side of the input of a network without prompts; None for the checkpoint's.
        prompt_form: its form; None for the checkpoint's.
        multimask: one of `MASK_CHOICES`; None for the network's own.

    Raises:
        InputError: the checkpoint does not fit, or the network has one mask only.
    """
    if isinstance(network, NoNetwork) or not network_modes(modes):
        return network.eval()
    ready: Any = load_network(network, checkpoint, image_size, prompt_form)
    if multimask is not None:
        if "clicks" not in ready.prompt_kinds:
            raise InputError(f"multimask is '{multimask}', but {ready.title} gives one mask: leave it out.")
        ready.mask_choice = multimask
    return ready.eval()


def has_curves(network: Any) -> bool:
    """Whether both curves can be measured: the network takes boxes and clicks."""
    return {"box", "clicks"} <= set(network.prompt_kinds)


def usable_modes(
    network: Any,
    prompt_modes: Any,
    objects: str | Sequence[str] = "union",
    records: Sequence[Mapping[str, Any]] = (),
) -> tuple[str, ...]:
    """Return the modes to run: those named, or of "all" those that network, objects and ``records`` allow.

    Raises:
        InputError: a mode is named that the network cannot be used in; "none", which means all objects of
            an image, and they are scored one by one; or annotated boxes, which some ``records`` lack.
    """
    modes = parse_modes(prompt_modes)
    bare = [str(record["name"]) for record in records if not record.get("boxes")]
    if prompt_modes in (None, "all"):
        if records and not bare:
            modes += ANNOTATED_MODES
        elif len(bare) < len(records):
            logger.warning(
                "%d of %d images have no annotated box, '%s' first: the modes %s are left out.",
                *(len(bare), len(records), bare[0], " and ".join(ANNOTATED_MODES)),
            )
    elif bare and (named := [mode for mode in modes if mode in ANNOTATED_MODES]):
        raise InputError(
            f"prompt_modes names {named[0]}, but {len(bare)} of {len(records)} images have no annotated box, "
            f"'{bare[0]}' first: leave it out, or evaluate images with boxes alone (docs/data.md)."
        )
    rules = {objects} if isinstance(objects, str) else set(objects)
    if "none" in modes and rules != {"union"}:
        if prompt_modes not in (None, "all"):
            raise InputError(
                "prompt_modes names none, which means all objects of an image: use --objects union with it."
            )
        modes = tuple(mode for mode in modes if mode != "none")
    usable = tuple(mode for mode in modes if kind_of(mode) in (None, *network.prompt_kinds))
    if prompt_modes not in (None, "all") and usable != modes:
        refused = ", ".join(mode for mode in modes if mode not in usable)
        possible = ", ".join(mode for mode in network_modes(MODES) if kind_of(mode) in network.prompt_kinds)
        raise InputError(
            f"prompt_modes names {refused}, but {network.title} takes no such prompt: "
            f"use {possible} and controls."
        )
    return usable


def check_normal_images(
    normal_images: bool, records: Sequence[Any], split: str, modes: Sequence[str], predictions: str | None
) -> None:
    """Check that there is something to count false positives on, and with.

    Args:
        normal_images: the option.
        records: images without a lesion of the part that is evaluated.
        split: that part.
        modes: prompt modes of this run.
        predictions: folder of masks that another program made, or None.

    Raises:
        InputError: no images; or no mode that needs no prompt.
    """
    if not normal_images:
        return
    if not records:
        raise InputError(
            f"normal_images is True, but split '{split}' has no image without a lesion: leave it out, or "
            "name another part with --split."
        )
    if "none" not in modes and predictions is None:
        raise InputError(
            "normal_images is True, and a normal image has nothing to prompt, but the mode none is not among "
            "the prompt_modes: add it, or leave normal_images out."
        )


def choose_split(datalist: DataList, split: str | None, dataset_dir: str | Sequence[str] | None) -> str:
    """Return the split to evaluate: the one named, else the test images or, where nobody set any apart, all.

    Phantoms have test images of their own.
    """
    if split is not None:
        return split
    return "test" if dataset_dir is None else effective_split(datalist)


def read_other_runs(
    compare: str | Sequence[str] | None, names: Sequence[str], modes: Sequence[str]
) -> list[OtherRun]:
    """Return the runs to compare with.

    Args:
        compare: none, one ``metrics.csv`` or a list of them; the folder that holds one will do.
        names: of the images of this run.
        modes: prompt modes of this run.

    Raises:
        InputError: it is no ``metrics.csv``, or shares nothing with this run.
    """
    others = [read_metrics(path) for path in _listed(compare)]
    for other in others:
        check_overlap(other, names, modes)
    return others


def _listed(compare: str | Sequence[str] | None) -> list[str]:
    paths = [] if compare is None else [compare] if isinstance(compare, str) else list(compare)
    return [str(Path(path) / "metrics.csv") if Path(path).is_dir() else path for path in paths]


def describe_run(
    datalist: DataList,
    split: str,
    checkpoint: str,
    network: Any,
    metric_size: int | str,
    seed: int,
    bootstrap: int,
    predictions: str | None = None,
    objects: str | Sequence[str] = "union",
    as_authors: bool = False,
) -> RunInfo:
    """Return what the summary and the report say about a run; ``as_authors`` is how images were prepared."""
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
        training=None if alone else _training_of(checkpoint),
        predictions=predictions,
        objects=objects if isinstance(objects, str) else list(objects),
        preprocessing=AUTHORS if as_authors else OURS,
        multimask=getattr(network, "mask_choice", None),
    )


def _training_of(checkpoint: str) -> dict[str, Any] | None:
    """Return the machine time of the training run that a checkpoint lies in, where that is known."""
    file = Path(checkpoint).with_name(MACHINE_TIME)
    try:
        content = json.loads(read_text(file))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def announce(datalist: DataList, split: str, count: int) -> None:
    """Say what is evaluated, on the main process; loudly, where it is phantoms."""
    if not is_main_process():
        return
    if datalist.layout != "phantoms":
        logger.info("Evaluating %d images, %s of %s", count, f"split {split}", datalist.summary())
        return
    logger.warning(
        "\n%s",
        framed(
            "EVALUATION ON SYNTHETIC PHANTOMS: no --dataset_dir was given.",
            f"These {count} made-up images say nothing about patients. To evaluate on real ones add",
            "    --dataset_dir FOLDER",
            "where FOLDER holds images/ and masks/, or one of the public sets in its own layout.",
        ),
    )


def _refuse_masks_to_be_replaced(output_dir: Path, predictions: Path) -> None:
    masks, given = (output_dir / MASKS).expanduser().resolve(), predictions.expanduser().resolve()
    if masks == given or masks in given.parents:
        raise InputError(
            f"predictions '{predictions}' lies in output_dir, whose masks are replaced: name another folder "
            "with --output_dir."
        )


def _refuse_output_among_data(output_dir: Path, dataset_dir: Path) -> None:
    """Refuse it, since the ``masks`` written there would be taken for the data set's own."""
    output, data = output_dir.expanduser().resolve(), dataset_dir.resolve()
    if output == data or data in output.parents:
        raise InputError(
            f"output_dir '{output_dir}' lies in dataset_dir '{dataset_dir}': name a folder outside of it, "
            "so that predictions never mix with the data."
        )
