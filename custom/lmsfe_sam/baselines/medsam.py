"""MedSAM (Ma et al., Nature Communications 2024): SAM's ViT-B, trained on medical images with boxes.

The network is SAM's (https://github.com/bowang-lab/MedSAM), and ``medsam_vit_b.pth`` loads with
``load_pretrained``. What differs is the input, which has no mean and standard deviation, and how logits
become masks: `lmsfe_sam.baselines.preprocessing.prepare_medsam` and `medsam_probability`.
"""

from __future__ import annotations

from lmsfe_sam.baselines.preprocessing import prepare_medsam
from lmsfe_sam.baselines.sam import Sam


class MedSam(Sam):
    """SAM ViT-B whose prompt encoder does not train, as in MedSAM's own training.

    Args:
        image_size: as for `Sam`.
        freeze_encoder: the image encoder does not train, either.

    Raises:
        InputError: the size is no multiple of 16.
    """

    name = "medsam"
    prepare = staticmethod(prepare_medsam)

    def __init__(self, image_size: int = 1024, freeze_encoder: bool = False) -> None:
        super().__init__(image_size, freeze_encoder)
        self.prompt_encoder.requires_grad_(False)
