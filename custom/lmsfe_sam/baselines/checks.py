"""Checks the input of a prompt-free network."""

from __future__ import annotations

from torch import Tensor

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
