"""Checkpoints of any network: ours, a baseline, or a network of the user's own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from lmsfe_sam.baselines.registry import BASELINES, build_promptable
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.checkpoints import BASELINE, build_network, load_weights, read_sidecar
from lmsfe_sam.model.network import LMSFESAM
from lmsfe_sam.model.prompt_free import as_promptable
from lmsfe_sam.model.weights.checks import HASH
from lmsfe_sam.model.weights.pretrained import LoadReport

NOT_OPTIONS = (BASELINE, "normalisation", "version", HASH)
"""Keys of the file beside a checkpoint that are not options of its network."""


def build_described(checkpoint: str | os.PathLike[str], preset: str | None = None) -> nn.Module:
    """Build the network that a checkpoint is of, without its weights.

    Args:
        checkpoint: ``NAME.pt``, with ``NAME.json`` beside it unless it is of `LMSFESAM`.
        preset: what the user expects of an `LMSFESAM`, or None.

    Raises:
        InputError: as `lmsfe_sam.model.checkpoints.build_network`; or the file beside it names a baseline
            or options that do not exist.
    """
    content = read_sidecar(checkpoint)
    if content.get(BASELINE) is None:
        return build_network(checkpoint, preset)
    if preset is not None:
        raise InputError(
            f"preset '{preset}' contradicts checkpoint '{checkpoint}', which is of the baseline "
            f"'{content[BASELINE]}': leave out --preset or name another checkpoint."
        )
    return _build_baseline(content, checkpoint)


def load_network(
    network: nn.Module,
    checkpoint: str | os.PathLike[str],
    image_size: int | None = None,
    prompt_form: str | None = None,
) -> nn.Module:
    """Load a checkpoint into a network, built as the file beside it describes, if there is one.

    Args:
        network: `LMSFESAM`, a baseline, or a network from ``(B, C, S, S)`` to logits ``(B, 1, S, S)``, which
            is returned in a `PromptFreeNetwork`.
        checkpoint: of this project, or the published file of a baseline; every tensor must have a place.
        image_size: side of the input of a network without prompts; None for what it was trained at.
        prompt_form: form of a network without prompts; None for that of the checkpoint.

    Raises:
        InputError: it does not fit, or is of another network or form.
    """
    content = read_sidecar(checkpoint)
    held = content.get("prompt_form")
    if prompt_form is not None and held is not None and prompt_form != held:
        raise InputError(
            f"prompt_form '{prompt_form}' contradicts checkpoint '{checkpoint}', which was trained with "
            f"'{held}': leave out --prompt_form or name another checkpoint."
        )
    if content.get(BASELINE) is not None:
        network = _as_described(network, content, checkpoint)
    else:
        own_size = content.get("image_size") if "network" in content else None
        network = as_promptable(network, image_size or own_size, prompt_form or held)
    loader: Any = network
    if type(network) is LMSFESAM:
        load_weights(network, checkpoint)
    elif report := loader.load_pretrained(checkpoint):
        _refuse_misfit(report, loader.title)
    return network


def _refuse_misfit(report: LoadReport, title: str) -> None:
    """Refuse start weights as a finished network, which would be a row of the tables under a wrong name."""
    for names, what in (
        (report.new, "lacks {} tensors of"),
        (report.left_out, "has {} tensors too many for"),
    ):
        if names:
            raise InputError(
                f"checkpoint '{report.path}' {what.format(len(names))} {title} ('{names[0]}' first): "
                "evaluate the file that belongs to it, or train it from this one with --pretrained."
            )


def _as_described(
    network: nn.Module, content: Mapping[str, Any], checkpoint: str | os.PathLike[str]
) -> nn.Module:
    """Return ``network`` if it is what the checkpoint was trained as, else another form or size of it."""
    own: Any = network
    described: dict[str, object] = own.describe() if hasattr(own, "describe") else {}
    if described.get(BASELINE) != content[BASELINE]:
        is_of = described.get(BASELINE) or described.get("preset") or "another network"
        raise InputError(
            f"checkpoint '{checkpoint}' is of the baseline '{content[BASELINE]}', but the configs build "
            f"'{is_of}': add configs/baselines/{content[BASELINE]}.json as the last file of --config_file."
        )
    same = all(content.get(key) == value for key, value in described.items())
    return network if same else _build_baseline(content, checkpoint)


def _build_baseline(content: Mapping[str, Any], checkpoint: str | os.PathLike[str]) -> nn.Module:
    name = content[BASELINE]
    options = {key: value for key, value in content.items() if key not in NOT_OPTIONS}
    plain = all(isinstance(value, (bool, int, str)) for value in options.values())
    if not plain or not isinstance(name, str) or name not in BASELINES:
        raise InputError(
            f"the file beside checkpoint '{checkpoint}' describes no baseline: restore it or remove it."
        )
    network: Any = build_promptable(name, **options)
    return network
