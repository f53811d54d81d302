"""UCTransNet (Wang et al., AAAI 2022): a U-Net whose skips pass a transformer over channels.

Tensor names are those of https://github.com/McGregorWwww/UCTransNet, whose weights load as they are; the
code was written from a description of it. The learned position tables tie the network to one square size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.baselines.blocks import ConvNormReLU, Down, check_image, two_convolutions
from lmsfe_sam.errors import InputError

WIDTHS = (64, 128, 256, 512)
"""Channels of the four skips."""

PATCHES = (16, 8, 4, 2)
"""Sides of their patches in pixels, which give all four the same number of tokens."""

ALL = sum(WIDTHS)
HEADS = 4
LAYERS = 4
EXPANSION = 4
DROPOUT = 0.1
EPS = 1e-6


class UCTransNet(nn.Module):
    """``(B, in_channels, S, S)`` to logits ``(B, 1, S, S)``; 66.4 million parameters.

    Args:
        in_channels: of the image.
        image_size: S, a multiple of 16; 224 in the published weights.

    Raises:
        InputError: the size is no multiple of 16.
    """

    def __init__(self, in_channels: int = 3, image_size: int = 224) -> None:
        super().__init__()
        if image_size < 16 or image_size % 16:
            raise InputError(f"uctransnet cannot work at {image_size} pixels: give a multiple of 16.")
        self.in_channels = in_channels
        self.image_size = image_size
        self.inc = ConvNormReLU(in_channels, 64)
        self.down1 = Down(64, 128)
        self.down2 = Down(128, 256)
        self.down3 = Down(256, 512)
        self.down4 = Down(512, 512)
        self.mtc = ChannelTransformer(image_size // 16)
        self.up4 = AttendedUp(512, 256)
        self.up3 = AttendedUp(256, 128)
        self.up2 = AttendedUp(128, 64)
        self.up1 = AttendedUp(64, 64)
        self.outc = nn.Conv2d(64, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of ``image``.

        Raises:
            InputError: another number of channels, or another size.
        """
        check_image(image, self.in_channels, 1, "uctransnet")
        if image.shape[2] != self.image_size or image.shape[3] != self.image_size:
            raise InputError(
                f"uctransnet was built for {self.image_size} x {self.image_size} pixels and was given "
                f"{image.shape[2]} x {image.shape[3]}: resize the image or build it with image_size."
            )
        x1 = self.inc(image)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        skips = self.mtc([x1, x2, x3, x4])
        x = self.up4(self.down4(x4), skips[3])
        x = self.up3(x, skips[2])
        x = self.up2(x, skips[1])
        return self.outc(self.up1(x, skips[0]))


class ChannelTransformer(nn.Module):
    """The skips at 1, 1/2, 1/4 and 1/8, each plus what it learns from all four; shapes stay.

    Args:
        grid: side of the token grid, 1/16 of the image's.
    """

    def __init__(self, grid: int) -> None:
        super().__init__()
        for i, (width, patch) in enumerate(zip(WIDTHS, PATCHES, strict=True), start=1):
            self.add_module(f"embeddings_{i}", PatchEmbedding(width, patch, grid))
            self.add_module(f"reconstruct_{i}", Reconstruction(width, patch))
        self.encoder = Encoder()

    def forward(self, skips: list[Tensor]) -> list[Tensor]:
        """Return as many maps as ``skips``, ``(B, C_i, S_i, S_i)`` each."""
        tokens = [embed(skip) for embed, skip in zip(_each(self, "embeddings_"), skips, strict=True)]
        rebuilt = zip(_each(self, "reconstruct_"), self.encoder(tokens), skips, strict=True)
        return [reconstruct(own) + skip for reconstruct, own, skip in rebuilt]


class PatchEmbedding(nn.Module):
    """Patches to tokens with positions: ``(B, width, S, S)`` to ``(B, grid * grid, width)``."""

    def __init__(self, width: int, patch: int, grid: int) -> None:
        super().__init__()
        self.patch_embeddings = nn.Conv2d(width, width, patch, stride=patch)
        self.position_embeddings = nn.Parameter(torch.zeros(1, grid * grid, width))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """Embed ``x``."""
        tokens = self.patch_embeddings(x).flatten(2).transpose(1, 2)
        return self.dropout(tokens + self.position_embeddings)


class Reconstruction(ConvNormReLU):
    """Tokens to a map, enlarged to the patches' size, then a 1 x 1 convolution, batch norm and ReLU."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__(width, width, kernel=1)
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        """``(B, grid * grid, width)`` to ``(B, width, grid * patch, grid * patch)``."""
        side = round(x.shape[1] ** 0.5)
        grid = x.transpose(1, 2).unflatten(2, (side, side))
        return super().forward(F.interpolate(grid, scale_factor=float(self.patch), mode="nearest"))


class Encoder(nn.Module):
    """`LAYERS` layers and a last norm, on four lists of tokens ``(B, T, C_i)``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer() for _ in range(LAYERS))
        _add_norms(self, "encoder_norm")

    def forward(self, tokens: list[Tensor]) -> list[Tensor]:
        """Let the four learn from each other; shapes stay."""
        for layer in self.layer:
            tokens = layer(tokens)
        return _apply_each(self, "encoder_norm", tokens)


class Layer(nn.Module):
    """Channel attention over all four scales, then an MLP on each, both beside a skip.

    Keys and values come from the concatenation of the four, which is normalised as a whole.
    """

    def __init__(self) -> None:
        super().__init__()
        _add_norms(self, "attn_norm")
        self.attn_norm = nn.LayerNorm(ALL, eps=EPS)
        self.channel_attn = ChannelAttention()
        _add_norms(self, "ffn_norm")
        for i, width in enumerate(WIDTHS, start=1):
            self.add_module(f"ffn{i}", MLP(width))

    def forward(self, tokens: list[Tensor]) -> list[Tensor]:
        """Four times ``(B, T, C_i)`` to the same."""
        everything = self.attn_norm(torch.cat(tokens, dim=2))
        attended = self.channel_attn(_apply_each(self, "attn_norm", tokens), everything)
        tokens = [x + y for x, y in zip(tokens, attended, strict=True)]
        hidden = _apply_each(self, "ffn", _apply_each(self, "ffn_norm", tokens))
        return [x + y for x, y in zip(tokens, hidden, strict=True)]


class ChannelAttention(nn.Module):
    """The channels of each scale attend to the channels of all; every head works on all of them.

    Dropout falls on the weights and on what leaves, as usual in a ViT.
    """

    def __init__(self) -> None:
        super().__init__()
        for i, width in enumerate(WIDTHS, start=1):
            self.add_module(f"query{i}", _linear_heads(width))
        self.key = _linear_heads(ALL)
        self.value = _linear_heads(ALL)
        for i, width in enumerate(WIDTHS, start=1):
            self.add_module(f"out{i}", nn.Linear(width, width, bias=False))
        self.score_norm = nn.InstanceNorm2d(HEADS)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, tokens: list[Tensor], everything: Tensor) -> list[Tensor]:
        """Attend.

        Args:
            tokens: four of ``(B, T, C_i)``.
            everything: ``(B, T, 960)``.

        Returns:
            Four of ``(B, T, C_i)``.
        """
        keys = _per_head(self.key, everything)
        values = _per_head(self.value, everything)
        attended = [self._attend(_per_head(q, x), keys, values) for q, x in zip(_each(self, "query"), tokens)]
        return [self.dropout(x) for x in _apply_each(self, "out", attended)]

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """``(B, heads, T, C_i)`` with keys and values ``(B, heads, T, 960)`` to ``(B, T, C_i)``."""
        scores = queries.transpose(2, 3) @ keys / ALL**0.5
        weights = self.dropout(self.score_norm(scores).softmax(dim=-1))
        return (weights @ values.transpose(2, 3)).mean(dim=1).transpose(1, 2)


class MLP(nn.Module):
    """Two linear layers around a GELU; ``(..., width)`` to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, EXPANSION * width)
        self.fc2 = nn.Linear(EXPANSION * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply both to ``x``."""
        return self.fc2(F.gelu(self.fc1(x)))


class AttendedUp(nn.Module):
    """Nearest enlargement by two; two convolutions over the attended skip and it, in this order.

    Args:
        inputs: channels of the deeper features, and of the skip.
        outputs: channels that leave.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.coatt = ChannelCrossAttention(inputs)
        self.nConvs = two_convolutions(2 * inputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join ``x (B, inputs, H/2, W/2)`` and ``skip (B, inputs, H, W)`` to ``(B, outputs, H, W)``."""
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.nConvs(torch.cat([self.coatt(x, skip), x], dim=1))


class ChannelCrossAttention(nn.Module):
    """Scales the channels of a skip by what it and the decoder's features hold on average."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp_x = nn.Sequential(nn.Flatten(), nn.Linear(channels, channels))
        self.mlp_g = nn.Sequential(nn.Flatten(), nn.Linear(channels, channels))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Return ``skip (B, C, H, W)`` scaled with regard to ``x (B, C, H, W)``, without what is negative."""
        votes = self.mlp_x(skip.mean(dim=(2, 3))) + self.mlp_g(x.mean(dim=(2, 3)))
        return F.relu(skip * torch.sigmoid(votes / 2)[:, :, None, None])


def _linear_heads(width: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(HEADS))


def _per_head(heads: nn.Module, x: Tensor) -> Tensor:
    """``(B, T, C)`` to ``(B, heads, T, C)``, a full linear map for each head."""
    assert isinstance(heads, nn.ModuleList)
    return torch.stack([head(x) for head in heads], dim=1)


def _add_norms(module: nn.Module, name: str) -> None:
    for i, width in enumerate(WIDTHS, start=1):
        module.add_module(f"{name}{i}", nn.LayerNorm(width, eps=EPS))


def _each(module: nn.Module, name: str) -> list[nn.Module]:
    """The four submodules ``name1`` to ``name4``, one a scale."""
    return [module.get_submodule(f"{name}{i}") for i in range(1, len(WIDTHS) + 1)]


def _apply_each(module: nn.Module, name: str, tokens: list[Tensor]) -> list[Tensor]:
    return [part(x) for part, x in zip(_each(module, name), tokens, strict=True)]
