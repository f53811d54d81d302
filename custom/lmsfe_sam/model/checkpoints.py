"""This project's own checkpoints: a network's weights, and the description from which it is rebuilt.

A checkpoint is a bare state dict, ``NAME.pt``, with ``NAME.json`` beside it.
"""

from __future__ import annotations

import io
import json
import logging
import os
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from lmsfe_sam.errors import InputError, short_repr
from lmsfe_sam.files import atomic_write
from lmsfe_sam.model.encoder.backbone import PLAIN, TIMM_NAMES, require_timm
from lmsfe_sam.model.network import LMSFESAM
from lmsfe_sam.model.presets import PIXEL_MEAN, PIXEL_STD, PRESETS
from lmsfe_sam.model.weights.checks import HASH, sha256
from lmsfe_sam.model.weights.pretrained import (
    POSITION_SCALE,
    POSITION_SOURCE,
    POSITION_TABLE,
    first_names,
    load_pretrained,
    read_state,
)
from lmsfe_sam.version import __version__

logger = logging.getLogger(__name__)

MAX_DESCRIPTION = 2**20
"""Bytes of the file beside a checkpoint."""

POSITION_STAGES = "image_encoder.position_adapter.stages."

BASELINE = "baseline"
"""Key of a description that names a network of `lmsfe_sam.baselines`."""


class Described(Protocol):
    """A network that can be saved, since it describes how to rebuild it."""

    def describe(self) -> dict[str, object]:
        """Return the description from which the network is rebuilt."""

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors by name."""


def save_weights(model: Described, path: str | os.PathLike[str]) -> None:
    """Write ``NAME.pt``, a bare state dict, and ``NAME.json``, its description without a hash.

    Raises:
        InputError: the folder cannot be written to.
    """
    target = Path(path)
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    buffer = io.BytesIO()  # torch.save to a file on a full disk raises no OSError
    torch.save(state, buffer)
    description = {
        **model.describe(),
        "normalisation": {"mean": list(PIXEL_MEAN), "std": list(PIXEL_STD)},
        "version": __version__,
    }
    with atomic_write(target.with_suffix(".json")) as temporary:  # first: its hash would be the old file's
        temporary.write_text(json.dumps(description, indent=2) + "\n")
    with atomic_write(target) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def seal_weights(path: str | os.PathLike[str]) -> None:
    """Write the SHA-256 of a finished ``NAME.pt`` into ``NAME.json``; loading compares the two from then on.

    Raises:
        InputError: either is missing, or the folder cannot be written to.
    """
    file = Path(path)
    content = read_sidecar(file)
    if not content:
        raise InputError(f"checkpoint '{file}' or its description is missing: train one first.")
    with atomic_write(file.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({**content, HASH: sha256(file)}, indent=2) + "\n")


def read_description(checkpoint: str | os.PathLike[str], preset: str | None = None) -> dict[str, Any]:
    """Return how the network of one of this project's checkpoints is built.

    Args:
        checkpoint: ``NAME.pt``; ``NAME.json`` is read if it exists, otherwise the names and shapes of
            the tensors are used.
        preset: the preset that the user named, or None.

    Returns:
        The keyword arguments of `LMSFESAM`.

    Raises:
        InputError: no such file, or a preset that contradicts it.
    """
    file = Path(checkpoint)
    if not file.is_file():
        raise InputError(
            f"checkpoint '{file}' does not exist: train one or give the path of a .pt file with --checkpoint."
        )
    sidecar = file.with_suffix(".json")
    description = _read_sidecar(sidecar) if sidecar.is_file() else _describe_state(read_state(file), file)
    if preset is not None and preset != description.preset:
        raise InputError(
            f"preset '{preset}' contradicts checkpoint '{file}', which holds '{description.preset}': "
            "leave out --preset or name another checkpoint."
        )
    return description.model_dump()


def read_sidecar(checkpoint: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the content of the file beside a checkpoint of any network; empty if there is no such file.

    Raises:
        InputError: the file is not JSON.
    """
    sidecar = Path(checkpoint).with_suffix(".json")
    return _read_json(sidecar) if Path(checkpoint).is_file() and sidecar.is_file() else {}


def read_image_size(checkpoint: str | os.PathLike[str]) -> int:
    """Return the side of the input at which a checkpoint's network was trained, for any network.

    Raises:
        InputError: as `read_description`.
    """
    content = read_sidecar(checkpoint)
    if {"network", BASELINE} & set(content) and "image_size" in content:
        size = {"preset": "", "image_size": content["image_size"]}
        return _validated(size, Path(checkpoint).with_suffix(".json")).image_size
    return read_description(checkpoint)["image_size"]


class Description(BaseModel):
    """The arguments of `LMSFESAM` in the file beside a checkpoint; files older than an option lack it."""

    model_config = ConfigDict(strict=True)

    preset: str
    image_size: int = Field(default=256, ge=16, le=4096, multiple_of=16)
    local_encoder: bool = True
    mhpm: bool = True
    adapters: bool = True
    balancing_adapter: bool = True
    position_norm: Literal["layer", "instance"] = "layer"
    position_mode: Literal["add", "replace"] = "add"
    backbone: str = Field(default=PLAIN, max_length=100)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MAX_DESCRIPTION:
            raise ValueError(f"it is longer than {MAX_DESCRIPTION} bytes")
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"'{file}' is not JSON ({str(error)[:100]}): restore it or remove it.") from error
    if not isinstance(content, dict):
        raise InputError(f"'{file}' names no preset: restore it or remove it.")
    return content


def _read_sidecar(file: Path) -> Description:
    content = _read_json(file)
    if "network" in content:
        raise InputError(
            f"'{file}' says that the checkpoint is of {str(content['network'])[:100]}: "
            "give the network_def that it was trained with."
        )
    if BASELINE in content:
        name = str(content[BASELINE])[:100]
        raise InputError(
            f"'{file}' says that the checkpoint is of the baseline '{name}': add "
            f"configs/baselines/{name}.json as the last file of --config_file, or name another checkpoint."
        )
    if "preset" not in content:
        raise InputError(f"'{file}' names no preset: restore it or remove it.")
    return _validated(content, file)


def _validated(content: dict[str, Any], file: Path) -> Description:
    try:
        return Description.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key, value = ".".join(map(str, first["loc"])), short_repr(first["input"])[:60]
        raise InputError(f"'{file}' has {key} {value} ({first['msg']}): restore it or remove it.") from error


def _describe_state(state: dict[str, Tensor], file: Path) -> Description:
    names = {part for name in state for part in name.split(".")}
    table = state.get(POSITION_TABLE)
    if table is not None and table.dim() != 4:
        table = None
    depth = len({name.split(".")[2] for name in state if name.startswith("image_encoder.blocks.")})
    if any(name.startswith(TIMM_NAMES) for name in state):
        raise InputError(
            f"checkpoint '{file}' has a backbone of timm, whose name only '{file.with_suffix('.json').name}' "
            "tells: put that file beside it."
        )
    for preset, sizes in PRESETS.items():
        if table is not None and (sizes.embed_dim, sizes.depth) == (table.shape[-1], depth):
            if any(name.startswith(POSITION_STAGES) for name in state):
                logger.warning(
                    "'%s' is missing, which says how the position adapter normalises: it is taken to be "
                    "position_norm 'layer'; put the file beside '%s' if that is wrong.",
                    file.with_suffix(".json").name,
                    file,
                )
            adds = POSITION_SCALE in state or POSITION_SOURCE not in state
            content = {
                "preset": preset,
                "image_size": 16 * table.shape[1],
                "local_encoder": "local_encoder" in names,
                "mhpm": "xy" in names,
                "adapters": "position_adapter" in names,
                "balancing_adapter": "balancing_adapter" in names,
                "position_mode": "add" if adds else "replace",
            }
            return _validated(content, file)
    raise InputError(
        f"checkpoint '{file}' holds none of this project's networks: give a .pt file that training wrote, or "
        "name the config of its network, such as configs/baselines/ukan.json, last in --config_file."
    )


def network_from_checkpoint(path: str | os.PathLike[str], preset: str | None = None) -> LMSFESAM:
    """Build and load the network of one of this project's checkpoints, in evaluation mode.

    Raises:
        InputError: as `build_network` and `load_weights`.
    """
    return load_weights(build_network(path, preset), path).eval()


def build_network(path: str | os.PathLike[str], preset: str | None = None) -> LMSFESAM:
    """Build the network that a checkpoint of ours is of, without its weights.

    Raises:
        InputError: as `read_description`; or there is no such network, or the file is too small for it.
    """
    description = read_description(path, preset)
    if description["local_encoder"] and description["backbone"] != PLAIN:
        require_timm(description["backbone"])
    try:
        if _fewest_numbers(description) > Path(path).stat().st_size:
            raise InputError(
                f"it is smaller than a network of preset {description['preset']} with backbone "
                f"{description['backbone']}: restore both files."
            )
        return LMSFESAM(**description)
    except InputError as error:
        raise InputError(f"checkpoint '{path}' is not what the file beside it says: {error}") from error


def _fewest_numbers(description: dict[str, Any]) -> int:
    """Return how many weights a network has at least, of a byte or more each; none are made."""
    if description["backbone"] != PLAIN:
        with torch.device("meta"):
            return sum(weight.numel() for weight in LMSFESAM(**description).parameters())
    sizes = PRESETS.get(description["preset"])
    return 12 * sizes.depth * sizes.embed_dim**2 if sizes else 0


def load_weights(model: LMSFESAM, path: str | os.PathLike[str]) -> LMSFESAM:
    """Load one of this project's checkpoints; every tensor must fit without any change.

    Raises:
        InputError: a tensor does not fit.
    """
    report = load_pretrained(model, path)
    if report.resized or report.new or report.replaced:
        raise InputError(
            f"checkpoint '{path}' does not fit preset '{model.preset}' at {model.image_size} pixels with "
            f"{model.toggles} ({first_names(report.resized + report.new)}): name what it was trained with, "
            "or start from it with --pretrained."
        )
    return model
