"""Weights to start from: files of SAM, SAM-Med2D, MedSAM and this project, read safely and fitted.

A file either loads with ``weights_only=True`` or passes a restricted unpickler that knows tensors and
discards optimizers. Its tensors are brought to the network's names and sizes.
"""

from __future__ import annotations

import logging
import os
import pickle
import types
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.weights.checks import (
    check_hash,
    check_numbers,
    check_size,
    check_tensor,
    refuse_compression,
)

logger = logging.getLogger(__name__)

OUR_PARTS = (
    "local_encoder",
    "local_to_neck",
    "position_adapter",
    "feature_adapter",
    "channel_spatial_adapter",
    "balancing_adapter",
    "dense_prompt_encoder",
    "fine_head",
    "Adapter",
)
"""Modules that a file of SAM, MedSAM or SAM-Med2D may lack."""

BACKBONE = "image_encoder.local_encoder.stages."
PLAIN_BESIDE = f"{BACKBONE}plain."
"""Where the plain backbone is when a network of timm stands beside it."""

BESIDE = (f"{BACKBONE}beside.", f"{BACKBONE}project.")
"""What such a pair has in addition."""

BACKBONE_SHAPED = (
    BACKBONE,
    "image_encoder.local_encoder.project.",
    "fine_head.skip_projections.",
)
"""Parts of another shape with another backbone."""

SAM_MED2D_ADAPTER = ".Adapter."
OUR_ADAPTER = ".channel_spatial_adapter."

POSITION_TABLE = "image_encoder.pos_embed"
POSITION_SCALE = "image_encoder.position_adapter.scale"
POSITION_SOURCE = "image_encoder.position_adapter.source"
"""The position adapter works on the table of the file itself, as `PositionAdapter` says."""

_TENSOR_GLOBALS = {
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("collections", "OrderedDict"): OrderedDict,
}

_restricted_pickle = types.ModuleType("restricted_pickle")


@dataclass
class LoadReport:
    """What became of each tensor, by name.

    Attributes:
        path: the file.
        format: ``lmsfe_sam``, ``sam`` (SAM and MedSAM) or ``sam-med2d``.
        loaded: copied as they are.
        resized: position tables brought to this network's grid.
        new: parts of this network that the file does not hold; they keep their start values.
        replaced: tensors of the file that belong to another backbone, and were left out.
        left_out: SAM-Med2D's adapters, where the network is built without any.
        unused: tensors of the file that this network has no place for; always empty on return,
            as a leftover is an error.
    """

    path: Path
    format: str
    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lists = {
            "loaded": self.loaded,
            "resized": self.resized,
            "new": self.new,
            "replaced": self.replaced,
            "left out": self.left_out,
            "unused": self.unused,
        }
        seldom = ("replaced", "left out")
        counts = [f"{len(names)} {title}" for title, names in lists.items() if names or title not in seldom]
        lines = [f"{self.path} ({self.format}): {', '.join(counts)}"]
        lines += [
            f"  {title}: {', '.join(names)}" for title, names in lists.items() if names and title != "loaded"
        ]
        return "\n".join(lines)


def load_pretrained(model: Any, path: str | os.PathLike[str]) -> LoadReport:
    """Load a file of SAM, MedSAM, SAM-Med2D or our own into ``model``.

    SAM-Med2D's adapters go into this network's channel-spatial adapters, or into adapters of their own
    name; a network without any leaves them out, and the report says so.

    Raises:
        InputError: no such file, no checkpoint, a pickle that holds more than tensors, or tensors
            that do not fit the network.
    """
    file = Path(path)
    target = model.state_dict()
    state, form = _translate(read_state(file), target)
    if form != "lmsfe_sam" and POSITION_SOURCE in target and POSITION_TABLE in state:
        state[POSITION_SOURCE] = state[POSITION_TABLE]
    report = LoadReport(file, form)
    if not any(SAM_MED2D_ADAPTER in name for name in target):
        report.left_out = [name for name in state if SAM_MED2D_ADAPTER in name]
        state = {name: tensor for name, tensor in state.items() if SAM_MED2D_ADAPTER not in name}
    optional: tuple[str, ...] = ()
    if _is_plain_beside(state, target):
        optional = BESIDE
        state = {name.replace(BACKBONE, PLAIN_BESIDE, 1): tensor for name, tensor in state.items()}
    elif form == "lmsfe_sam" and _backbone_names(state) and _backbone_names(state) != _backbone_names(target):
        optional = BACKBONE_SHAPED
        report.replaced = [name for name in state if name.startswith(BACKBONE_SHAPED)]
        state = {name: tensor for name, tensor in state.items() if name not in report.replaced}
    fitted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name not in target:
            report.unused.append(name)
        elif tensor.shape == target[name].shape:
            fitted[name] = tensor
            report.loaded.append(name)
        elif _is_position_table(name) and _differ_in_grid(tensor.shape, target[name].shape):
            fitted[name] = resize_table(tensor, target[name].shape)
            report.resized.append(name)
        else:
            raise InputError(
                f"checkpoint '{file}' does not fit {model.title}: {name} has shape "
                f"{tuple(tensor.shape)} where {tuple(target[name].shape)} is needed; "
                "name the network that the file was made for."
            )
    report.new = [name for name in target if name not in fitted]
    _refuse_misfits(report, model, optional)
    model.load_state_dict({**target, **fitted})
    logger.log(logging.WARNING if report.left_out else logging.INFO, "%s", report)
    return report


def _backbone_names(state: dict[str, Tensor]) -> set[str]:
    return {name for name in state if name.startswith(BACKBONE)}


def _is_plain_beside(state: dict[str, Tensor], target: Iterable[str]) -> bool:
    """Whether the file's plain backbone is the one that the network has beside one of timm."""
    plain = {name.replace(BACKBONE, PLAIN_BESIDE, 1) for name in _backbone_names(state)}
    return plain == {name for name in target if name.startswith(PLAIN_BESIDE)} != set()


def _refuse_misfits(report: LoadReport, model: Any, optional: tuple[str, ...]) -> None:
    if report.unused:
        raise InputError(
            f"checkpoint '{report.path}' holds {len(report.unused)} tensors that {model.title} "
            f"with {model.toggles} has no place for ({first_names(report.unused)}): "
            "switch the part on that they belong to, or name the right network."
        )
    allowed = () if report.format == "lmsfe_sam" else OUR_PARTS
    missing = [name for name in report.new if not any(part in name.split(".") for part in allowed)]
    missing = [name for name in missing if not name.startswith(optional)]
    if missing:
        raise InputError(
            f"checkpoint '{report.path}' lacks {len(missing)} tensors of {model.title} "
            f"({first_names(missing)}): name the network and the parts that the file was made for."
        )


def first_names(names: list[str]) -> str:
    """List three names at most."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _translate(state: dict[str, Tensor], target: Iterable[str]) -> tuple[dict[str, Tensor], str]:
    """Give a file's tensors the names of ``target``, and say which format it has."""
    if any(SAM_MED2D_ADAPTER in name for name in state):
        if any(OUR_ADAPTER in name for name in target):
            state = {name.replace(SAM_MED2D_ADAPTER, OUR_ADAPTER): tensor for name, tensor in state.items()}
        return state, "sam-med2d"
    if any(part in name.split(".") for name in state for part in OUR_PARTS):
        return state, "lmsfe_sam"
    return state, "sam"


def _is_position_table(name: str) -> bool:
    return name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w", "position_adapter.source"))


def _differ_in_grid(shape: torch.Size, wanted: torch.Size) -> bool:
    """Whether position tables are of as many channels, and neither is empty."""
    if len(shape) != len(wanted) or 0 in shape:
        return False
    return shape[-1] == wanted[-1] and (len(shape) == 2 or shape[0] == wanted[0])


def resize_table(table: Tensor, shape: torch.Size) -> Tensor:
    """Resize a position table bilinearly: ``(1, H, W, C)``, or ``(L, C)`` along L."""
    if table.dim() == 2:
        resized = F.interpolate(table.t()[None].float(), size=shape[0], mode="linear", align_corners=False)
        return resized[0].t().to(table.dtype)
    maps = table.permute(0, 3, 1, 2).float()
    resized = F.interpolate(maps, size=list(shape[1:3]), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1).to(table.dtype)


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file without executing anything in it.

    Raises:
        InputError: no such file, no checkpoint, a pickle that needs anything but tensors, or tensors that
            are not finite numbers in memory of their own (complex, quantized, sparse, expanded, NaN, ...).
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"checkpoint '{file}' does not exist: give the path of a .pt or .pth file.")
    if _is_torchscript(file):
        raise InputError(
            f"checkpoint '{file}' is a TorchScript program, which could not be read without running it: "
            "give the file of weights that it was made from."
        )
    check_hash(file)
    refuse_compression(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        content = _read_restricted(file, error)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    is_state = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    )
    if not is_state or not content:
        raise InputError(
            f"checkpoint '{file}' is not a state dict: save the network's state_dict() and give that file."
        )
    for name, tensor in content.items():
        check_tensor(file, name, tensor)
    check_size(file, content.values())
    for name, tensor in content.items():
        check_numbers(file, name, tensor)
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _is_torchscript(file: Path) -> bool:
    """Whether `torch.load` would hand the file to `torch.jit.load`."""
    if not zipfile.is_zipfile(file):
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.rsplit("/", 1)[-1] == "constants.pkl" for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _read_restricted(file: Path, first_error: Exception) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=False, pickle_module=_restricted_pickle)
    except ForbiddenGlobalError as error:
        raise InputError(
            f"checkpoint '{file}' would run '{error.name}' while it loads and was refused: "
            "get the file from a source that you trust and save its state_dict() alone."
        ) from None
    except Exception:
        first_line = (str(first_error) or type(first_error).__name__).splitlines()[0]
        raise InputError(
            f"checkpoint '{file}' cannot be read ({first_line[:120]}): "
            "it is damaged or no PyTorch checkpoint; download it again."
        ) from first_error


class ForbiddenGlobalError(pickle.UnpicklingError):
    """A pickle needs something that is neither a tensor nor known to be harmless."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _Discarded(dict[Any, Any]):
    """Stands in for an optimizer and what it holds: takes everything, keeps nothing of use."""

    def __new__(cls, *_: object, **__: object) -> _Discarded:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        pass


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _TENSOR_GLOBALS:
            return _TENSOR_GLOBALS[module, name]
        if module == "torch" and name.endswith("Storage"):
            return getattr(torch, name)
        optimizer = module == "torch.optim" or module.startswith("torch.optim.")
        if optimizer or (module, name) in {
            ("collections", "defaultdict"),
            ("builtins", "dict"),
            ("__builtin__", "dict"),
        }:
            return _Discarded
        raise ForbiddenGlobalError(f"{module}.{name}")


_restricted_pickle.Unpickler = _RestrictedUnpickler  # type: ignore[attr-defined]
_restricted_pickle.load = lambda file, **options: _RestrictedUnpickler(file, **options).load()  # type: ignore[attr-defined]
