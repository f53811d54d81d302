"""Before the first epoch: check the options, choose the images and the start weights, announce the run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from lmsfe_sam.data.combined import folders_of
from lmsfe_sam.data.datalist import DataList
from lmsfe_sam.data.layouts.folders import Record
from lmsfe_sam.distributed import check_device_and_precision
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.encoder.backbone import load_classifier
from lmsfe_sam.model.prompt_free import PromptFreeNetwork, as_promptable
from lmsfe_sam.model.weights.pretrained import read_state
from lmsfe_sam.options import TrainingOptions, check_options
from lmsfe_sam.settings import framed

logger = logging.getLogger(__name__)


def check_settings(options: Mapping[str, Any]) -> None:
    """Check the options of the training config.

    Raises:
        InputError: a value of the wrong type or range, a device that is not there, or a file or folder
            that does not exist.
    """
    check_options(TrainingOptions, options)
    if "device" in options:
        check_device_and_precision(options["device"], options.get("amp"))
    for folder in folders_of(options.get("dataset_dir")):
        if not Path(folder).expanduser().exists():
            raise _missing("dataset_dir", folder, "folder or datalist.json")
    if options.get("resume") and not Path(options["resume"]).is_dir():
        raise _missing("resume", options["resume"], "folder")
    for key in ("pretrained", "backbone_weights", "teachers"):
        for file in folders_of(options.get(key)):
            if not Path(file).is_file():
                raise _missing(key, file, "file")
    if options.get("mlflow") and find_spec("mlflow") is None:
        raise InputError("mlflow is True, but MLflow is not installed: run pip install 'lmsfe-sam[mlflow]'.")


def _missing(key: str, path: str, kind: str) -> InputError:
    return InputError(f"{key} '{path}' is not there: name an existing {kind} with --{key}.")


def start_network(
    network: Any,
    pretrained: str | None,
    backbone_weights: str | None = None,
    image_size: int | None = None,
    prompt_form: str | None = None,
    frozen: Sequence[str] = (),
) -> nn.Module:
    """Return the network that is trained, with its start weights.

    Args:
        network: `LMSFESAM`, a baseline, or a network from ``(B,C,H,W)`` to logits ``(B,1,H,W)``.
        pretrained: file for the whole network; see ``LMSFESAM.load_pretrained``.
        backbone_weights: file for its backbone, of a classification network in timm; loaded last.
        image_size: side of the input, for a network that takes no prompts.
        prompt_form: its form, ``none`` or ``box``.
        frozen: names of modules that keep their weights, as ``named_modules`` has them.

    Raises:
        InputError: a file does not fit, the form is not the network's, or nothing is left to train.
    """
    network = as_promptable(network, image_size, prompt_form)
    if pretrained is not None:
        network.load_pretrained(pretrained)
    if backbone_weights is not None:
        if isinstance(network, PromptFreeNetwork):
            network.load_backbone(backbone_weights)
        else:
            local_encoder = network.image_encoder.local_encoder
            stages = None if local_encoder is None else local_encoder.stages
            load_classifier(stages, read_state(backbone_weights))
    if frozen:
        _freeze(network, frozen)
    return network


def _freeze(network: nn.Module, names: Sequence[str]) -> None:
    modules = dict(network.named_modules())
    for name in names:
        if name not in modules:
            parts = ", ".join(name for name, _ in network.named_children())
            raise InputError(f"frozen has '{name}', which the network does not have: its parts are {parts}.")
        modules[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError(f"frozen {list(names)} leaves nothing to train: name fewer parts.")


def used_datalist(datalist: DataList, train_data: Sequence[Record], val_data: Sequence[Record]) -> DataList:
    """Return the images that a run uses.

    Args:
        datalist: what the options name.
        train_data: the data of the training's dataset. A `ConfigWorkflow` may have put other images in its
            place (``train_dataset_data``): entries of "image" and "label".
        val_data: the same of the validation's dataset.

    Raises:
        InputError: images to train on were given, but none to validate on.
    """
    parts = (*datalist.records.values(), *datalist.normal.values())
    known = {id(record) for records in parts for record in records}
    data = {"train": train_data, "val": val_data}
    given = [part for part, records in data.items() if any(id(record) not in known for record in records)]
    if not given:
        return datalist
    if datalist.layout == "phantoms" and len(given) < 2:
        raise InputError(
            f"{given[0]}_dataset_data is given alone: give train_dataset_data and val_dataset_data, "
            "or a dataset_dir."
        )
    records = {**{part: list(own) for part, own in data.items()}, "test": []}
    for part in given:
        records[part] = [{"name": str(record["image"]), **_with_list(record)} for record in data[part]]
    return dataclasses.replace(
        datalist,
        name="given data",
        root=Path.cwd(),
        layout="given",
        records=records,
        normal={},
        split_rule="own",
    )


def _with_list(record: Record) -> Record:
    label = record.get("label", [])
    return {**record, "label": [label] if isinstance(label, str | Path) else list(label)}


def announce(datalist: DataList, epochs: int) -> None:
    """Log the training images; with a warning if they are phantoms, which say nothing about patients."""
    if datalist.layout != "phantoms":
        logger.info("%s %d epochs.", datalist.summary(), epochs)
        return
    logger.warning(
        framed(
            "DEMONSTRATION ON SYNTHETIC PHANTOMS: no --dataset_dir was given.",
            f"{sum(map(len, datalist.records.values()))} made-up ultrasound images, {epochs} passes; "
            "the weights are of no medical use.",
            "To train on real images:",
            "    python -m monai.bundle run training --config_file configs/train.json --dataset_dir FOLDER",
            "where FOLDER holds images/ and masks/, or one of the public sets in its own layout.",
        )
    )


def warn_untrained(network: nn.Module, pretrained: str | None, resume: str | None) -> None:
    """Warn that frozen weights, which training will not change, are random."""
    frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    if frozen and pretrained is None and resume is None:
        logger.warning(
            f"*** FROM RANDOM WEIGHTS: {frozen / 1e6:.1f} M parameters of this preset are frozen, made to be "
            "loaded from a file that was not given, so that the figures will be poor: give weights of SAM, "
            "MedSAM or SAM-Med2D with --pretrained FILE. ***"
        )
