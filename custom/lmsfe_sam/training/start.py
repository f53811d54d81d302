"""The last things before the first epoch: start weights, and the split written down."""

from __future__ import annotations

import json
from typing import Any

from torch import nn

from lmsfe_sam.data.datalist import SECTIONS, DataList
from lmsfe_sam.errors import InputError
from lmsfe_sam.files import atomic_write
from lmsfe_sam.model.backbone import load_classifier
from lmsfe_sam.model.weight_files import read_state
from lmsfe_sam.training.run_folder import DATALIST, RunFolder


def start_weights(network: Any, pretrained: str | None, backbone_weights: str | None = None) -> nn.Module:
    """Return ``network`` with the weights of the files loaded that are named.

    Args:
        network: `LMSFESAM`.
        pretrained: for the whole network; see ``LMSFESAM.load_pretrained``.
        backbone_weights: for its backbone, of a classification network in timm; loaded last.

    Raises:
        InputError: a file does not fit.
    """
    if pretrained is not None:
        network.load_pretrained(pretrained)
    if backbone_weights is not None:
        local_encoder = network.image_encoder.local_encoder
        load_classifier(None if local_encoder is None else local_encoder.stages, read_state(backbone_weights))
    return network


def keep_datalist(datalist: DataList, folder: RunFolder) -> None:
    """Write ``datalist.json``; a run that goes on must find the very images that it was started with.

    Raises:
        InputError: a resumed run's images or their split have changed.
    """
    if folder.source is not None:
        before = json.loads((folder.source / DATALIST).read_text(encoding="utf-8"))
        for part, section in SECTIONS.items():
            if [r["name"] for r in before[section]] != [r["name"] for r in datalist.records[part]]:
                raise InputError(
                    f"resume '{folder.source}' was started with other {section} images than dataset_dir "
                    "holds now: put the same files back, or start a new run."
                )
    if not folder.main_process:
        return
    if datalist.layout != "phantoms":
        datalist.write(folder / DATALIST)
        return
    content = {section: datalist.records[part] for part, section in SECTIONS.items()}
    with atomic_write(folder / DATALIST) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
