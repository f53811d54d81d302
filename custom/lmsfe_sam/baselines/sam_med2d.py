"""SAM-Med2D (Cheng et al., https://arxiv.org/abs/2308.16184): SAM at 256 x 256 with an adapter in each block.

Tensor names are those of https://github.com/OpenGVLab/SAM-Med2D, so ``sam-med2d_b.pth`` loads with
``load_pretrained`` as it is. Its input: `lmsfe_sam.baselines.preprocessing.prepare_sam_med2d`.
"""

from __future__ import annotations

from torch import Tensor, nn

from lmsfe_sam.baselines.preprocessing import prepare_sam_med2d
from lmsfe_sam.baselines.sam import Sam
from lmsfe_sam.model.encoder.adapters import ChannelSpatialAdapter
from lmsfe_sam.model.encoder.image_encoder import Block
from lmsfe_sam.model.presets import get_preset


class SamMed2D(Sam):
    """271,241,776 parameters, of which the adapters hold 180,504,576.

    Its ``mask_choice`` is ``best``: that is what was trained, and SAM's first token never was.

    Args:
        image_size: side of the square input; 256 as published.
        freeze_encoder: SAM's part of the image encoder does not train, the adapters do: as published.

    Raises:
        InputError: the size is no multiple of 16.
    """

    name = "sam_med2d"
    mask_choice = "best"
    prepare = staticmethod(prepare_sam_med2d)
    published_size = 256

    def __init__(self, image_size: int = 256, freeze_encoder: bool = True) -> None:
        super().__init__(image_size, freeze_encoder)
        sizes = get_preset("vit_b")
        for i in range(sizes.depth):
            window = 0 if i in sizes.global_blocks else sizes.window_size
            block = AdaptedBlock(
                sizes.embed_dim,
                sizes.num_heads,
                image_size // 16,
                window,
                int(sizes.mlp_ratio * sizes.embed_dim),
                int(sizes.adapter_ratio * sizes.embed_dim),
            )
            block.requires_grad_(not freeze_encoder)
            block.Adapter.requires_grad_(True)
            self.image_encoder.blocks[i] = block


class AdaptedBlock(Block):
    """SAM's block with a channel-spatial adapter beside the MLP; ``(B, H, W, C)`` to the same.

    The adapter's norm starts at one, as published, so a new adapter adds something from the start.

    Args:
        dim, num_heads, grid_size, window_size, mlp_dim: see `Block`.
        adapter_dim: channels of the adapter's gate.
    """

    def __init__(
        self, dim: int, num_heads: int, grid_size: int, window_size: int, mlp_dim: int, adapter_dim: int
    ) -> None:
        super().__init__(dim, num_heads, grid_size, window_size, mlp_dim)
        self.Adapter = ChannelSpatialAdapter(dim, adapter_dim)
        nn.init.ones_(self.Adapter.norm.weight)

    def forward(self, x: Tensor, local: Tensor | None = None) -> Tensor:
        """Attend, then apply MLP and adapter to the same normalised tokens ``x``; no local features."""
        x = x + self.attn(self.norm1(x))
        normed = self.norm2(x)
        return x + self.mlp(normed) + self.Adapter(normed)
