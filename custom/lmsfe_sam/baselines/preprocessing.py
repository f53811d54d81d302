"""How the authors of SAM, MedSAM and SAM-Med2D prepare an image, and bring masks back to it.

Each ``prepare_`` function returns the network's input and a `Frame`, which converts prompts to coordinates
of the input, and logits to masks of the image. The networks themselves do not normalise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional as F

from lmsfe_sam.predict.preprocessing import normalise, to_rgb_uint8
from lmsfe_sam.prompts.coordinates import Size, scale_points


class Frame(NamedTuple):
    """Where an image lies in a network's square input, and how its output becomes masks of the image.

    Attributes:
        original: height and width of the image as it was given.
        content: height and width that it has in the input.
        corner: row and column of its first pixel there.
        side: of the input.
        from_probability: masks come from resized probabilities (`medsam_probability`), not from logits.
    """

    original: Size
    content: Size
    corner: tuple[int, int]
    side: int
    from_probability: bool = False

    def points(self, points: ArrayLike) -> np.ndarray:
        """Move points ``(..., 2)``, x before y, from the image into the input."""
        row, column = self.corner
        return scale_points(points, self.original, self.content) + np.array([column, row])

    def boxes(self, boxes: ArrayLike) -> np.ndarray:
        """Move boxes ``(..., 4)``, x0 y0 x1 y1, from the image into the input."""
        corners = np.asarray(boxes, dtype=np.float64)
        return self.points(corners.reshape(*corners.shape[:-1], 2, 2)).reshape(corners.shape)

    def restore(self, logits: Tensor) -> Tensor:
        """Resize logits ``(M, C, h, w)`` of the whole input to those of the image, ``(M, C, H, W)``.

        As SAM does: bilinear to the input's side, cropped, bilinear to the image's size.
        """
        (row, column), (height, width) = self.corner, self.content
        whole = _resize(logits, (self.side, self.side))
        return _resize(whole[..., row : row + height, column : column + width], self.original)

    def masks(self, logits: Tensor, low_res: Tensor) -> Tensor:
        """Return masks of the image, ``(M, C, H, W)`` bool.

        Args:
            logits: ``(M, C, h, w)`` of the whole input.
            low_res: the decoder's own low-resolution logits, from which probabilities are computed.
        """
        if self.from_probability:
            return medsam_probability(low_res, self.original) > 0.5
        return self.restore(logits) > 0


class Prepared(NamedTuple):
    """An input ``(3, S, S)`` float32, and where the image lies in it."""

    image: Tensor
    frame: Frame


def prepare_sam(array: ArrayLike, image_size: int = 1024) -> Prepared:
    """As SAM and EdgeSAM: longest side resized to ``image_size``, normalised, zeros to the right and below.

    Args:
        array: as `lmsfe_sam.predict.preprocessing.to_rgb_uint8` takes it.
        image_size: side of the input.
    """
    from segment_anything.utils.transforms import ResizeLongestSide

    rgb = to_rgb_uint8(array)
    resized = ResizeLongestSide(image_size).apply_image(rgb)
    height, width = resized.shape[:2]
    image = F.pad(normalise(_channels_first(resized)), (0, image_size - width, 0, image_size - height))
    return Prepared(image, Frame(_size(rgb), (height, width), (0, 0), image_size))


def prepare_medsam(array: ArrayLike, image_size: int = 1024) -> Prepared:
    """As MedSAM: resized to a square by a bicubic spline, cut to whole grey levels, stretched to 0..1.

    Args:
        array: as `lmsfe_sam.predict.preprocessing.to_rgb_uint8` takes it.
        image_size: side of the input.
    """
    from skimage.transform import resize

    rgb = to_rgb_uint8(array)
    square = (image_size, image_size)
    resized = resize(rgb, square, order=3, preserve_range=True, anti_aliasing=True).astype(np.uint8)
    low, high = int(resized.min()), int(resized.max())
    image = torch.from_numpy((resized - float(low)) / max(high - low, 1e-8)).permute(2, 0, 1)
    frame = Frame(_size(rgb), square, (0, 0), image_size, from_probability=True)
    return Prepared(image.float().contiguous(), frame)


def medsam_probability(low_res: Tensor, size: Size) -> Tensor:
    """As MedSAM makes masks: sigmoid of the low-resolution logits first, then bilinear to the image's size.

    Args:
        low_res: ``(M, C, h, w)``.
        size: height and width of the image.

    Returns:
        ``(M, C, H, W)``; inside where it is above 0.5.
    """
    return _resize(low_res.sigmoid(), size)


def prepare_sam_med2d(array: ArrayLike, image_size: int = 256) -> Prepared:
    """As SAM-Med2D: channels blue first, but means and standard deviations red first; nearest neighbour.

    An image that is smaller than the input on both sides is not resized, but centred and padded with zeros.

    Args:
        array: as `lmsfe_sam.predict.preprocessing.to_rgb_uint8` takes it, red first.
        image_size: side of the input.
    """
    rgb = to_rgb_uint8(array)
    size = _size(rgb)
    image = normalise(_channels_first(rgb[..., ::-1]))
    height, width = size
    if height < image_size and width < image_size:
        top, left = (image_size - height) // 2, (image_size - width) // 2
        padding = (left, image_size - width - left, top, image_size - height - top)
        return Prepared(F.pad(image, padding), Frame(size, size, (top, left), image_size))
    square = (image_size, image_size)
    resized = F.interpolate(image[None], size=square, mode="nearest")[0]
    return Prepared(resized, Frame(size, square, (0, 0), image_size))


def _channels_first(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float().contiguous()


def _size(pixels: np.ndarray) -> Size:
    return pixels.shape[0], pixels.shape[1]


def _resize(maps: Tensor, size: Size) -> Tensor:
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
