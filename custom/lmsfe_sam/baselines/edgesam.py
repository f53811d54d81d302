"""EdgeSAM (Zhou et al., https://arxiv.org/abs/2312.06660): RepViT-M1 in place of SAM's ViT.

A clean build from a description: the convolution blocks are timm's, prompt encoder and mask decoder are
SAM's, tensor names are those of https://github.com/chongzhou96/EdgeSAM, so that its file loads. That file
and that repository are under S-Lab Licence 1.0, which forbids commercial use; nothing of either is here.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.common import LayerNorm2d
from timm.layers import SqueezeExcite
from timm.models.repvit import ConvNorm, RepVggDw
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.baselines.preprocessing import prepare_sam
from lmsfe_sam.baselines.sam import TOGGLES_OFF
from lmsfe_sam.errors import InputError
from lmsfe_sam.model.mask_decoder import ObjectMaskDecoder
from lmsfe_sam.model.network import LMSFESAM
from lmsfe_sam.model.prompt_encoder import ObjectPromptEncoder

WIDTHS = (48, 96, 192, 384)
"""Channels at 1/4, 1/8, 1/16 and 1/32 of the input."""

DEPTHS = (3, 4, 16, 3)
"""Blocks of each stage; the first of all but stage 0 halves the map."""

DECODER_DIM = 256


class EdgeSam(LMSFESAM):
    """EdgeSAM behind `LMSFESAM`'s interface: ``encode``, ``decode``, ``forward``.

    Of the published model's options, one, three or four returned masks are ``multimask_output`` False, True
    and `decode_tokens`; a point label of -2 is padding here, like -1.

    Args:
        image_size: side of the square input, a multiple of 32; 1024 as published.

    Raises:
        InputError: an image size that it cannot take.
    """

    name = "edgesam"
    prepare = staticmethod(prepare_sam)
    published_size = 1024

    def __init__(self, image_size: int = 1024) -> None:
        if image_size < 32 or image_size % 32:
            raise InputError(f"edgesam cannot work at {image_size} pixels: give a multiple of 32.")
        with torch.device("meta"):  # the ViT's weights would only be discarded
            super().__init__("vit_b", image_size, **TOGGLES_OFF)
        grid = image_size // 16
        self.image_encoder = RepViTEncoder()  # type: ignore[assignment]
        self.prompt_encoder = ObjectPromptEncoder(DECODER_DIM, grid, image_size)
        self.mask_decoder = ObjectMaskDecoder(DECODER_DIM, mlp_dim=2048)

    @property
    def title(self) -> str:
        """The network in a sentence."""
        return self.name

    def describe(self) -> dict[str, object]:
        """What `lmsfe_sam.baselines.build` needs to build this network again."""
        return {"baseline": self.name, "image_size": self.image_size}


class RepViTEncoder(nn.Module):
    """RepViT-M1 with its stages at 1/16 and 1/32 fused, then SAM's neck; 5.5 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleList([_stem(), *_blocks()])
        self.fuse_stage2 = nn.Conv2d(WIDTHS[2], DECODER_DIM, 1, bias=False)
        self.fuse_stage3 = ProjectAndEnlarge(WIDTHS[3], DECODER_DIM)
        self.neck = nn.Sequential(
            nn.Conv2d(DECODER_DIM, DECODER_DIM, 1, bias=False),
            LayerNorm2d(DECODER_DIM),
            nn.Conv2d(DECODER_DIM, DECODER_DIM, 3, padding=1, bias=False),
            LayerNorm2d(DECODER_DIM),
        )

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the embedding ``(B, 256, S/16, S/16)`` of ``image (B, 3, S, S)``, and no skips."""
        x = sixteenth = image
        for i, block in enumerate(self.features):
            x = block(x)
            if i == sum(DEPTHS[:3]):
                sixteenth = x
        return self.neck(self.fuse_stage2(sixteenth) + self.fuse_stage3(x)), []


class ProjectAndEnlarge(nn.Module):
    """1 x 1 convolution, then bicubic enlargement by two."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.op_list = nn.ModuleList([nn.Conv2d(inputs, outputs, 1, bias=False)])

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` to ``(B, outputs, 2H, 2W)``."""
        return F.interpolate(self.op_list[0](x), scale_factor=2.0, mode="bicubic", align_corners=False)


class RepViTBlock(nn.Module):
    """Depth-wise token mixer, then channel mixer.

    Args:
        inputs, outputs: channels; they differ where the map is halved.
        squeeze: squeeze and excitation behind the token mixer.
    """

    def __init__(self, inputs: int, outputs: int, squeeze: bool) -> None:
        super().__init__()
        if inputs == outputs:
            gate = SqueezeExcite(inputs, 0.25) if squeeze else nn.Identity()
            self.token_mixer = nn.Sequential(RepVggDw(inputs, 3, legacy=True), gate)
        else:
            depthwise = ConvNorm(inputs, inputs, 3, stride=2, pad=1, groups=inputs)
            self.token_mixer = nn.Sequential(depthwise, nn.Identity(), ConvNorm(inputs, outputs))
        self.channel_mixer = ChannelMixer(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` to the same, or to ``(B, outputs, H/2, W/2)``."""
        return self.channel_mixer(self.token_mixer(x))


class ChannelMixer(nn.Module):
    """Two 1 x 1 convolutions around a GELU, beside a skip; the second's norm starts at zero."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.m = nn.Sequential(ConvNorm(dim, 2 * dim), nn.GELU(), ConvNorm(2 * dim, dim, bn_weight_init=0))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, dim, H, W)`` to the same."""
        return x + self.m(x)


def _stem() -> nn.Sequential:
    width = WIDTHS[0]
    return nn.Sequential(
        ConvNorm(3, width // 2, 3, stride=2, pad=1),
        nn.GELU(),
        ConvNorm(width // 2, width, 3, stride=2, pad=1),
    )


def _blocks() -> list[nn.Module]:
    """The 26 blocks; within a stage every second one squeezes, but not the stage's last."""
    blocks: list[nn.Module] = []
    inputs = WIDTHS[0]
    for stage, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
        first = 0 if stage == 0 else 1
        last = None if stage == len(WIDTHS) - 1 else depth - 1
        for i in range(depth):
            squeeze = i >= first and (i - first) % 2 == 0 and i != last
            blocks.append(RepViTBlock(inputs, width, squeeze))
            inputs = width
    return blocks
