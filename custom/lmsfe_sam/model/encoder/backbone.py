"""The CNN backbone of the local encoder, "a CNN backbone network" in section 1.1: plain, or one of timm's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.errors import InputError
from lmsfe_sam.model.presets import PIXEL_MEAN, PIXEL_STD

PLAIN = "plain"
STRIDES = (2, 4, 8, 16)
"""The features that the local encoder needs: stem, x1, x2 and x3 of section 1.1."""


class PlainBackbone(nn.Sequential):
    """A stem and three stages, each halving the size; the plain reading of section 1.1.

    Args:
        widths: channels of the stem and the three stages.
        blocks: residual blocks behind each of the four.
    """

    def __init__(self, widths: tuple[int, int, int, int], blocks: tuple[int, int, int, int]) -> None:
        inputs = (3, *widths[:-1])
        super().__init__(
            *(
                nn.Sequential(ConvNormAct(i, o, 3, stride=2), *[ResidualBlock(o) for _ in range(n)])
                for i, o, n in zip(inputs, widths, blocks, strict=True)
            )
        )
        self.widths = widths

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features of ``image (B, 3, H, W)`` at 1/2, 1/4, 1/8 and 1/16."""
        features: list[Tensor] = []
        for stage in self:
            image = stage(image)
            features.append(image)
        return features


class TimmBackbone(nn.Module):
    """A network of timm, cut off after its features at 1/16 of the input.

    Its weights are random until `load_classifier` is given others.

    Args:
        name: of the network in timm, such as ``tf_efficientnet_lite0``.

    Raises:
        InputError: timm has no such network, or the network has no features at one of `STRIDES`.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net: nn.Module
        self.net, self.widths = _timm_features(name)
        # The input comes with SAM's normalisation, and the weights were trained with timm's.
        config: Any = self.net.default_cfg
        mean, std = torch.tensor(config["mean"]), torch.tensor(config["std"])
        sam_mean, sam_std = torch.tensor(PIXEL_MEAN) / 255, torch.tensor(PIXEL_STD) / 255
        self.register_buffer("scale", (sam_std / std)[:, None, None], persistent=False)
        self.register_buffer("shift", ((sam_mean - mean) / std)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features of ``image (B, 3, H, W)`` at 1/2, 1/4, 1/8 and 1/16."""
        return self.net(image * self.scale + self.shift)  # type: ignore[operator]


def build_backbone(
    name: str, widths: tuple[int, int, int, int], blocks: tuple[int, int, int, int]
) -> PlainBackbone | TimmBackbone:
    """Build ``plain``, which has these widths and blocks, or the network of timm that ``name`` names."""
    return PlainBackbone(widths, blocks) if name == PLAIN else TimmBackbone(name)


def _timm_features(name: str) -> tuple[nn.Module, tuple[int, int, int, int]]:
    """Build timm's network up to 1/16, and return how many channels its four features have."""
    import timm
    from timm.models.efficientnet import EfficientNetFeatures
    from timm.models.mobilenetv3 import MobileNetV3Features

    if not timm.is_model(name):
        raise InputError(f"backbone '{name}' is unknown: give 'plain' or the name of a network in timm.")
    try:
        with torch.device("meta"):  # without numbers: it may be large, and is only asked for its strides
            network: Any = timm.create_model(name, features_only=True)
        strides = network.feature_info.reduction()
    except Exception:  # timm raises what each network's own code happens to raise
        strides = []
    if not set(STRIDES) <= set(strides):
        raise InputError(
            f"backbone '{name}' does not give features at 1/2, 1/4, 1/8 and 1/16 of the input: "
            "give a convolutional network, such as tf_efficientnet_lite0."
        )
    indices = [len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES]
    net: Any = timm.create_model(name, features_only=True, out_indices=indices)
    if isinstance(net, EfficientNetFeatures | MobileNetV3Features):  # timm keeps the later stages there
        del net.blocks[net.feature_info.get_dicts()[-1]["stage"] :]
    first, second, third, fourth = net.feature_info.channels()
    return net, (first, second, third, fourth)


def load_classifier(backbone: nn.Module | None, state: dict[str, Tensor]) -> None:
    """Load the stages of a classification network that the backbone has.

    The tensors are taken by their names, or, where these are another library's, by their order,
    which efficientnet_pytorch's and timm's EfficientNets share.

    Raises:
        InputError: the backbone is not one of timm's, or the tensors do not fit.
    """
    if not isinstance(backbone, TimmBackbone):
        raise InputError(
            "backbone_weights are for a network of timm, which this one has not: name it with --backbone."
        )
    target = backbone.net.state_dict()
    names = list(target) if set(target) <= set(state) else list(state)
    chosen = {name: state[theirs] for name, theirs in zip(target, names, strict=False)}
    if len(chosen) < len(target) or any(chosen[name].shape != target[name].shape for name in target):
        raise InputError(
            "backbone_weights hold another network than --backbone names: give the file of that network."
        )
    backbone.net.load_state_dict(chosen)


class ConvNormAct(nn.Sequential):
    """Convolution without bias, batch norm, ReLU, on ``(B, inputs, H, W)``.

    Args:
        inputs, outputs: channels.
        kernel: side of the kernel, odd; padded by half of it.
        stride: of the convolution.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    """ResNet's basic block: two 3 x 3 convolutions and a skip; ``(B, channels, H, W)`` to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(channels, channels, 3)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block; the shape stays."""
        return F.relu(x + self.norm2(self.conv2(self.conv1(x))))
