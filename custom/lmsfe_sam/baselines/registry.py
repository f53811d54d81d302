"""The table of baselines, and how one is built by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from torch import nn

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.prompt_free import FORMS, PromptFreeNetwork
from lmsfe_sam.model.promptable import PromptableNetwork


@dataclass(frozen=True)
class Baseline:
    """One row of the table.

    Attributes:
        module: file in this package.
        factory: class or function in it; its arguments are the options.
        fixed: arguments that belong to the row and are not options.
        promptable: whether it takes prompts by itself; the others take an image alone.
        least: smallest side of the input: below it, an instance norm has a single value to normalise.
    """

    module: str
    factory: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    promptable: bool = False
    least: int = 1

    def load(self) -> Callable[..., nn.Module]:
        """Import the file and return what builds the network."""
        return getattr(import_module(f"lmsfe_sam.baselines.{self.module}"), self.factory)

    def options(self) -> list[str]:
        """Names of the options with which it can be built."""
        return [name for name in inspect.signature(self.load()).parameters if name not in self.fixed]


BASELINES: dict[str, Baseline] = {
    "unet": Baseline("unet", "build_unet", least=32),
    "uctransnet": Baseline("uctransnet", "UCTransNet"),
    "transresunet": Baseline("transresunet", "TransResUNet"),
    "ukan": Baseline("ukan", "UKAN", {"widths": (128, 160, 256)}),
    "ukan_large": Baseline("ukan", "UKAN", {"widths": (256, 320, 512)}),
    "sam": Baseline("sam", "Sam", promptable=True),
    "edgesam": Baseline("edgesam", "EdgeSam", promptable=True),
    "medsam": Baseline("medsam", "MedSam", promptable=True),
    "sam_med2d": Baseline("sam_med2d", "SamMed2D", promptable=True),
}


def names() -> list[str]:
    """Names that `build` knows, in the order of the paper's tables."""
    return list(BASELINES)


def build(name: str, **options: Any) -> nn.Module:
    """Build a baseline with random weights.

    Args:
        name: a row of `BASELINES`.
        **options: arguments of the row's class or function, such as ``in_channels`` or ``image_size``.

    Returns:
        A network without a prompt of its own maps ``(B, 3, H, W)`` to logits ``(B, 1, H, W)``. A promptable
        one is a `PromptableNetwork`, as `lmsfe_sam.LMSFESAM` is. None of them normalises its input.

    Raises:
        InputError: an unknown name or option, or an option's value that is not possible.
    """
    row = _row(name)
    _refuse_unknown(name, options, row.options())
    return row.load()(**row.fixed, **options)


def build_promptable(name: str, prompt_form: str | None = None, **options: Any) -> PromptableNetwork:
    """Build a baseline behind the interface that training and evaluation use.

    Args:
        name: a row of `BASELINES`.
        prompt_form: of a network that takes no prompts by itself: ``none``, the default, or ``box`` for the
            box as one more input channel. A promptable network takes any prompt.
        **options: as for `build`, or None for the row's default; networks without prompts also take
            ``image_size`` (256 by default).

    Raises:
        InputError: as `build`, a ``prompt_form`` that the network does not have, or a size it cannot take.
    """
    row = _row(name)
    options = {key: value for key, value in options.items() if value is not None}
    if row.promptable:
        if prompt_form is not None:
            raise InputError(f"{name} takes prompts by itself: leave prompt_form '{prompt_form}' out.")
        return build(name, **options)  # type: ignore[return-value]
    form = prompt_form or "none"
    if form not in FORMS:
        raise InputError(f"{name} has no form '{form}': choose one of {', '.join(FORMS)}.")
    own = row.options()
    _refuse_unknown(name, options, [*own, *({"image_size"} - set(own))])
    described = {"image_size": 256, "prompt_form": form, **options}
    arguments = {key: value for key, value in described.items() if key in own}
    arguments["in_channels"] = options.get("in_channels", 3) + (form == "box")
    network = build(name, **arguments)
    size, multiple = described["image_size"], getattr(network, "multiple", 1)
    if not isinstance(size, int) or size < row.least or size % multiple:
        wanted = [f"a multiple of {multiple}"] if multiple > 1 else []
        wanted += [f"{row.least} or more"] if row.least > 1 else []
        raise InputError(f"{name} cannot work at {size} pixels: give {', '.join(wanted)}.")
    return PromptFreeNetwork(network, described["image_size"], form, {"baseline": name, **described})


def _row(name: str) -> Baseline:
    if name not in BASELINES:
        raise InputError(f"baseline '{name}' is unknown: choose one of {', '.join(BASELINES)}.")
    return BASELINES[name]


def _refuse_unknown(name: str, options: Mapping[str, Any], known: list[str]) -> None:
    for option in options:
        if option not in known:
            raise InputError(f"{name} has no option '{option}': possible are {', '.join(known)}.")
