"""The training config's values, checked before anything is read, and what a run says at its start."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from lmsfe_sam.data.datalist import DataList
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.presets import PRESETS
from lmsfe_sam.settings import (
    Test,
    check_device,
    check_values,
    folders_of,
    mapping,
    one_of,
    real,
    some_of,
    text,
    text_or_texts,
    true_or_false,
    whole,
    whole_numbers,
)
from lmsfe_sam.training.modes import VALIDATION_MODES

logger = logging.getLogger(__name__)

RULES: dict[str, tuple[Test, str]] = {
    "dataset_dir": text_or_texts(or_none=True),
    "repeats": whole_numbers(1, or_none=True),
    "layout": text(),
    "split_rule": text(),
    "preset": one_of(PRESETS),
    "image_size": whole(16),
    "local_encoder": true_or_false(),
    "mhpm": true_or_false(),
    "adapters": true_or_false(),
    "balancing_adapter": true_or_false(),
    "backbone": text(or_none=True),
    "backbone_weights": text(or_none=True),
    "backbone_rate": real(0, 1, low_included=True),
    "pretrained": text(or_none=True),
    "resume": text(or_none=True),
    "output_dir": text(),
    "seed": whole(0),
    "epochs": whole(1, or_none=True),
    "batch_size": whole(1),
    "learning_rate": real(0, 1),
    "weight_decay": real(0, 1, low_included=True),
    "num_workers": whole(0),
    "threads": whole(1, or_none=True),
    "amp": true_or_false(or_none=True),
    "mlflow": true_or_false(),
    "phantoms": whole(8),
    "prompt_kinds": mapping(),
    "prompts_per_image": whole(1),
    "validation_modes": some_of(VALIDATION_MODES),
    "demonstration_epochs": whole(1),
    "full_epochs": whole(1),
    "correction_steps": whole(0),
    "unlearnt_corrections": whole(0),
    "corrected_share": real(0, 1, low_included=True),
    "validation_fraction": real(0, 1),
    "test_fraction": real(0, 1, low_included=True),
    "ema_decay": real(0, 1, low_included=True),
    "warmup_epochs": real(0, low_included=True),
    "clip_norm": real(0, or_none=True),
    "patience": whole(1),
    "val_interval": whole(1),
}
"""What each key of the training config may be."""


def check_settings(device: Any, **values: Any) -> None:
    """Hold the values of the training config against `RULES`.

    Raises:
        InputError: a value of the wrong kind or range, a device that is not there, or a file or folder
            that does not exist.
    """
    check_values(RULES, values)
    check_device(device)
    for folder in folders_of(values.get("dataset_dir")):
        if not Path(folder).expanduser().exists():
            raise _missing("dataset_dir", folder, "folder or datalist.json")
    if values.get("resume") and not Path(values["resume"]).is_dir():
        raise _missing("resume", values["resume"], "folder")
    for key in ("pretrained", "backbone_weights"):
        if values.get(key) and not Path(values[key]).is_file():
            raise _missing(key, values[key], "file")
    if values.get("mlflow") and find_spec("mlflow") is None:
        raise InputError("mlflow is True, but MLflow is not installed: run pip install 'lmsfe-sam[mlflow]'.")


def _missing(key: str, path: str, kind: str) -> InputError:
    return InputError(f"{key} '{path}' is not there: name an existing {kind} with --{key}.")


def announce(datalist: DataList, dataset_dir: str | Sequence[str] | None, phantoms: int, epochs: int) -> None:
    """Say what is trained on; loudly, where it is phantoms that teach nothing about patients."""
    if dataset_dir is not None:
        logger.info("%s %d epochs.", datalist.summary(), epochs)
        return
    lines = (
        "DEMONSTRATION ON SYNTHETIC PHANTOMS: no --dataset_dir was given.",
        f"{phantoms} made-up ultrasound images, {epochs} passes; the weights are of no medical use.",
        "To train on real images:",
        "    python -m monai.bundle run training --config_file configs/train.json --dataset_dir FOLDER",
        "where FOLDER holds images/ and masks/, or one of the public sets in its own layout.",
    )
    width = max(map(len, lines)) + 4
    frame = "*" * width
    logger.warning("\n".join((frame, *(f"* {line:<{width - 4}} *" for line in lines), frame)))


def warn_untrained(network: nn.Module, pretrained: str | None, resume: str | None) -> None:
    """Say loudly that frozen weights, which training will not change, are random ones."""
    frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    if frozen and pretrained is None and resume is None:
        logger.warning(
            f"*** FROM RANDOM WEIGHTS: {frozen / 1e6:.1f} M parameters of this preset are frozen, made to be "
            "loaded from a file that was not given, so that the figures will be poor: give weights of SAM, "
            "MedSAM or SAM-Med2D with --pretrained FILE. ***"
        )
