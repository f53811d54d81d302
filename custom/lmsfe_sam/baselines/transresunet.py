"""TransResUNet (Reza, Amin and Hashem, 2020): a U-Net on VGG-16's first blocks, for lungs in radiographs.

After https://github.com/sakibreza/TransResUNet, which is Keras; the tensors' names here are our own. It is
not the network of nearly the same name for polyps of 2022. There is no normalisation layer, and the paper
starts the encoder from VGG-16's ImageNet weights (`load_backbone` takes torchvision's).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.baselines.blocks import check_image
from lmsfe_sam.errors import InputError

VGG_LAYERS = {
    "block1_conv1": 0,
    "block1_conv2": 2,
    "block2_conv1": 5,
    "block2_conv2": 7,
    "block3_conv1": 10,
    "block3_conv2": 12,
    "block3_conv3": 14,
}
"""Our convolutions, and their indices in ``features`` of torchvision's ``vgg16``."""


class TransResUNet(nn.Module):
    """5,869,383 parameters with one channel; ``(B, in_channels, H, W)`` to logits ``(B, 1, H, W)``.

    Args:
        in_channels: of the image; any number but three passes a 1 x 1 convolution to three first.
    """

    multiple = 8
    """Sides of an image are multiples of this."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.adapt = nn.Conv2d(in_channels, 3, 1) if in_channels != 3 else None
        self.block1_conv1 = _conv3(3, 64)
        self.block1_conv2 = _conv3(64, 64)
        self.block2_conv1 = _conv3(64, 128)
        self.block2_conv2 = _conv3(128, 128)
        self.block3_conv1 = _conv3(128, 256)
        self.block3_conv2 = _conv3(256, 256)
        self.block3_conv3 = _conv3(256, 256)
        self.centre = Enlarge(256, 512, 256)
        self.path3 = nn.Sequential(ResidualConv(256, 128))
        self.up3 = Enlarge(128 + 256, 256, 64)
        self.path2 = nn.Sequential(ResidualConv(128, 64), ResidualConv(64, 64))
        self.up2 = Enlarge(64 + 64, 128, 64)
        self.path1 = nn.Sequential(ResidualConv(64, 32), ResidualConv(32, 32), ResidualConv(32, 32))
        self.last = _conv3(32 + 64, 32)
        self.out = nn.Conv2d(32, 1, 1)
        self._initialise()

    def _initialise(self) -> None:
        """As published: He in the layers that enlarge and in ``last``, Glorot elsewhere, biases zero."""
        he = {module for part in (self.centre, self.up3, self.up2, self.last) for module in part.modules()}
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                start = nn.init.kaiming_normal_ if module in he else nn.init.xavier_uniform_
                start(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of ``image``.

        Raises:
            InputError: another number of channels, or sides that are no multiples of 8.
        """
        check_image(image, self.in_channels, self.multiple, "transresunet")
        enc1, enc2, enc3 = self.encode(image)
        x = self.centre(F.max_pool2d(enc3, 2))
        x = self.up3(torch.cat([self.path3(enc3), x], dim=1))
        x = self.up2(torch.cat([self.path2(enc2), x], dim=1))
        x = torch.cat([self.path1(enc1), x], dim=1)
        return self.out(F.relu(self.last(x)))

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """VGG-16's features, 64 channels at the full size, 128 at 1/2 and 256 at 1/4."""
        x = image if self.adapt is None else self.adapt(image)
        enc1 = _chain(x, self.block1_conv1, self.block1_conv2)
        enc2 = _chain(F.max_pool2d(enc1, 2), self.block2_conv1, self.block2_conv2)
        enc3 = _chain(F.max_pool2d(enc2, 2), self.block3_conv1, self.block3_conv2, self.block3_conv3)
        return enc1, enc2, enc3

    def load_backbone(self, state: dict[str, Tensor]) -> None:
        """Start the encoder from a state dict of torchvision's ``vgg16``.

        Raises:
            InputError: the file is not such a state dict.
        """
        for name, index in VGG_LAYERS.items():
            conv = self.get_submodule(name)
            try:
                conv.load_state_dict({kind: state[f"features.{index}.{kind}"] for kind in ("weight", "bias")})
            except (KeyError, RuntimeError):
                raise InputError(
                    f"features.{index} is missing or of another shape: give torchvision's vgg16."
                ) from None


class Enlarge(nn.Sequential):
    """Nearest enlargement by two, then two 3 x 3 convolutions with ReLU.

    ``(B, inputs, H, W)`` to ``(B, outputs, 2H, 2W)``.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__(_conv3(inputs, hidden), _conv3(hidden, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge ``x`` and convolve."""
        return _chain(F.interpolate(x, scale_factor=2.0, mode="nearest"), *self)


class ResidualConv(nn.Module):
    """One block of a path from encoder to decoder: 3 x 3 plus 1 x 1, each with ReLU before the sum."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv3 = _conv3(inputs, outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, H, W)`` to ``(B, outputs, H, W)``."""
        return F.relu(self.conv3(x)) + F.relu(self.conv1(x))


def _conv3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def _chain(x: Tensor, *convolutions: nn.Module) -> Tensor:
    for convolution in convolutions:
        x = F.relu(convolution(x))
    return x
