"""SAM (Kirillov et al., ICCV 2023) with its ViT-B, as in segment_anything.

It is `LMSFESAM` with every toggle off, so its tensors have segment_anything's names, and
``sam_vit_b_01ec64.pth`` loads with ``load_pretrained``. Its input:
`lmsfe_sam.baselines.preprocessing.prepare_sam`.
"""

from __future__ import annotations

from typing import Any

from lmsfe_sam.baselines.preprocessing import prepare_sam
from lmsfe_sam.model.network import LMSFESAM

TOGGLES_OFF: dict[str, Any] = dict.fromkeys(("local_encoder", "mhpm", "adapters", "balancing_adapter"), False)
"""Arguments of `LMSFESAM` that make it SAM."""


class Sam(LMSFESAM):
    """SAM ViT-B, 93,735,472 parameters at 1024 x 1024.

    Args:
        image_size: side of the square input, a multiple of 16. At other sizes than 1024 a loaded file's
            position tables are resized.
        freeze_encoder: the image encoder does not train.

    Attributes:
        prepare: prepares an image as the network's authors do.
        published_size: side of the input that its published file was trained at.

    Raises:
        InputError: the size is no multiple of 16.
    """

    name = "sam"
    prepare = staticmethod(prepare_sam)
    published_size = 1024

    def __init__(self, image_size: int = 1024, freeze_encoder: bool = False) -> None:
        super().__init__("vit_b", image_size, **TOGGLES_OFF)
        self.freeze_encoder = freeze_encoder
        self.image_encoder.requires_grad_(not freeze_encoder)

    @property
    def title(self) -> str:
        """The network in a sentence."""
        return self.name

    def describe(self) -> dict[str, object]:
        """What `lmsfe_sam.baselines.build` needs to build this network again."""
        return {
            "baseline": self.name,
            "image_size": self.image_size,
            "freeze_encoder": self.freeze_encoder,
        }
