"""What networks without prompts share: the check of their input, and blocks of two convolutions.

The blocks are those of the U-Net and the UCTransNet of https://github.com/McGregorWwww/UCTransNet. Tensor
names are those of that repository; the code was written from a description of it.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lmsfe_sam.errors import InputError


def check_image(image: Tensor, channels: int, multiple: int, network: str) -> None:
    """Refuse an image with the wrong number of channels, or with sides that are not multiples.

    Args:
        image: should be ``(B, channels, H, W)``.
        channels: how many the network was built for.
        multiple: must divide H and W, which are halved several times.
        network: its name, for the message.

    Raises:
        InputError: the image does not fit.
    """
    shape = list(image.shape)
    if len(shape) != 4 or shape[1] != channels:
        raise InputError(f"{network} was given shape {shape}: give (B, {channels}, H, W).")
    if shape[2] % multiple or shape[3] % multiple:
        raise InputError(
            f"{network} cannot take {shape[2]} x {shape[3]} pixels: "
            f"give sides that are multiples of {multiple}."
        )


class ConvNormReLU(nn.Module):
    """Convolution with bias, batch norm, ReLU; ``(B, inputs, H, W)`` to ``(B, outputs, H, W)``.

    Args:
        inputs, outputs: channels.
        kernel: side of the kernel, odd; padded by half of it.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the three to ``x``."""
        return F.relu(self.norm(self.conv(x)))


def two_convolutions(inputs: int, outputs: int) -> nn.Sequential:
    """Two `ConvNormReLU` of 3 x 3, one after the other."""
    return nn.Sequential(ConvNormReLU(inputs, outputs), ConvNormReLU(outputs, outputs))


class Down(nn.Module):
    """Max pooling by two, then two convolutions; ``(B, inputs, H, W)`` to ``(B, outputs, H/2, W/2)``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.nConvs = two_convolutions(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Halve ``x`` and convolve."""
        return self.nConvs(F.max_pool2d(x, 2))
