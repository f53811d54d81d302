"""U-Net (Ronneberger, Fischer and Brox, MICCAI 2015), in two sizes.

``large`` is MONAI's `BasicUNet` with the paper's widths, 64 to 1024: 31,113,217 parameters. It differs
from the paper in what has become usual: padded convolutions, instance norm, leaky ReLU. ``small`` is the
U-Net that UCTransNet's authors compare with, https://github.com/McGregorWwww/UCTransNet, ``nets/UNet.py``:
14,751,873 parameters, tensors named as there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lmsfe_sam.baselines.blocks import ConvNormReLU, Down, check_image, two_convolutions
from lmsfe_sam.errors import InputError

WIDTHS = (64, 128, 256, 512, 1024, 64)
"""Channels of the five levels, and of the last one on the way up."""

SIZES = ("large", "small")


def build_unet(in_channels: int = 3, size: str = "large") -> nn.Module:
    """Build either size; ``(B, in_channels, H, W)`` to logits ``(B, 1, H, W)``.

    Args:
        in_channels: of the image.
        size: one of `SIZES`. The small one needs sides that are multiples of 16.

    Raises:
        InputError: an unknown size.
    """
    if size == "small":
        return SmallUNet(in_channels)
    if size != "large":
        raise InputError(f"unet has no size '{size}': choose one of {', '.join(SIZES)}.")
    from monai.networks.nets import BasicUNet

    return BasicUNet(spatial_dims=2, in_channels=in_channels, out_channels=1, features=WIDTHS)


class SmallUNet(nn.Module):
    """The 14.75 M U-Net: one convolution before the first level, and 512 channels in the last two.

    Args:
        in_channels: of the image.
    """

    multiple = 16
    """Sides of an image are multiples of this."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.inc = ConvNormReLU(in_channels, 64)
        self.down1 = Down(64, 128)
        self.down2 = Down(128, 256)
        self.down3 = Down(256, 512)
        self.down4 = Down(512, 512)
        self.up4 = Up(512, 256)
        self.up3 = Up(256, 128)
        self.up2 = Up(128, 64)
        self.up1 = Up(64, 64)
        self.outc = nn.Conv2d(64, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``(B, 1, H, W)`` of ``image (B, in_channels, H, W)``.

        Raises:
            InputError: another number of channels, or sides that are no multiples of 16.
        """
        check_image(image, self.in_channels, self.multiple, "unet")
        x1 = self.inc(image)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x = self.up4(self.down4(x4), x4)
        x = self.up3(x, x3)
        x = self.up2(x, x2)
        return self.outc(self.up1(x, x1))


class Up(nn.Module):
    """Transposed convolution by two, then two convolutions over it and the skip, in this order.

    Args:
        inputs: channels of the deeper features, and of the skip.
        outputs: channels that leave.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, inputs, 2, stride=2)
        self.nConvs = two_convolutions(2 * inputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Join ``x (B, inputs, H/2, W/2)`` and ``skip (B, inputs, H, W)`` to ``(B, outputs, H, W)``."""
        return self.nConvs(torch.cat([self.up(x), skip], dim=1))
