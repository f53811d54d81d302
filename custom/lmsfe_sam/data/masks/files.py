"""Files that hold masks: which of their values are lesion, whichever program wrote them.

A mask may be 1-bit, two-valued, a map of class values, a palette (Pascal VOC), drawn in colours, in the alpha
channel, or have a soft border. The values are kept as a label map; a mask is what is not 0 of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lmsfe_sam.data.masks.segments import Segments, read_segments
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.dicom.reading import read_segmentation
from lmsfe_sam.images.formats import NRRD_SUFFIXES, PICTURE_SUFFIXES, is_dicom, known_suffix
from lmsfe_sam.images.limits import MAX_PIXELS
from lmsfe_sam.images.pictures import brightest_value, read_indices
from lmsfe_sam.images.reading import read_image

THRESHOLD = 127
"""Pixels of a grey mask above this value are lesion."""

GREY_LOW, GREY_HIGH, GREY_SHARE = 32, 223, 0.01
"""A file is no mask where more than this share of its pixels lies between the two, off its border."""

_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".jp2", ".j2k")
"""Formats that blur values: none of them can tell classes apart."""

_FEW = 16
"""A file of more values than these has classes only if nearly each of them has an area of its own."""

_SOFT_PIXELS, _SOFT_SHARE = 4.0, 0.15
"""A soft border reaches so far: pixels, or share of the square root of the lesion's area."""

_VOID = (224, 224, 192)
"""Pascal VOC's colour of pixels that belong to no class."""


_VOID_CLASS = 255
"""Its value in maps of classes that are saved grey; there it is a line around them."""


class EmptyMaskError(InputError):
    """A mask without a lesion."""


@dataclass(frozen=True)
class MaskFile:
    """What a mask file holds.

    Attributes:
        labels: (H, W) int32, 0 outside, the file's class values inside; 1 where it has one class.
        soft: whether its border was soft, and cut at half.
        segments: of 3D Slicer, which may overlap; ``labels`` is their union.
    """

    labels: np.ndarray
    soft: bool = False
    segments: Segments | None = None


def read_label_map(path: str | Path, frame: int | None = None, max_pixels: int = MAX_PIXELS) -> MaskFile:
    """Read the class values of a mask file, which may be all 0.

    Args:
        path: a picture, NIfTI, NRRD, MetaImage or DICOM file, DICOM SEG among them.
        frame: of a file that has several.
        max_pixels: see `lmsfe_sam.images.reading.open_image`.

    Raises:
        InputError: the file is unreadable, or is no mask.
    """
    file = Path(path)
    suffix = known_suffix(file)
    if is_dicom(file) and (segments := read_segmentation(file)) is not None:
        return MaskFile(segments)
    if suffix in NRRD_SUFFIXES and frame is None and (layered := read_segments(file, max_pixels)) is not None:
        return MaskFile(layered.union(), segments=layered)
    pixels = read_image(file, frame, max_pixels).pixels
    indices = read_indices(file) if suffix in PICTURE_SUFFIXES and not frame else None
    if indices is not None and (labels := _from_palette(indices, pixels)) is not None:
        return MaskFile(labels)
    return label_pixels(pixels, str(path), suffix in _LOSSY)


def is_black(path: str | Path) -> bool:
    """Whether a mask file is all black, that is of a normal image; a file that cannot be read is not."""
    file = Path(path)
    try:
        if known_suffix(file) in PICTURE_SUFFIXES:
            highest = brightest_value(file)
            if highest is not None:
                return highest < (GREY_LOW if known_suffix(file) in _LOSSY else 1)
        return not read_label_map(file).labels.any()
    except InputError:
        return False


def label_pixels(pixels: np.ndarray, name: str, lossy: bool = False) -> MaskFile:
    """Turn the pixels of a mask picture into class values.

    Of colours, black is outside, and each other that fills an area is a class; blurred ones count by their
    brightest channel. Alpha holds the mask where the colours are all one.

    Args:
        pixels: (H, W) or (H, W, C).
        name: the file's name, for the message.
        lossy: whether the format blurs values.

    Raises:
        InputError: it is no mask.
    """
    if pixels.ndim == 2:
        return _from_grey(pixels, name, lossy)
    colours = pixels[..., :1] if pixels.shape[-1] == 2 else pixels[..., :3]
    if pixels.shape[-1] in (2, 4):
        alpha = pixels[..., -1]
        opaque = alpha > 0.5 * alpha.max(initial=0)
        if not opaque.all() and alpha.any():  # some programs leave it 0 everywhere
            inside = colours[opaque]
            if not inside.size or (inside == inside[0]).all():
                return _from_grey(alpha, name, lossy)
            colours = np.where(opaque[..., None], colours, 0)
    if (colours == colours[..., :1]).all():
        return _from_grey(colours[..., 0], name, lossy)
    classes = None if lossy else _from_colours(colours)
    if classes is not None:
        return MaskFile(classes)
    brightest = colours.max(axis=-1)
    if brightest.min() > THRESHOLD:  # coloured on white
        brightest = 255 - colours.min(axis=-1)
    if not lossy and (brightest == brightest.flat[0]).all():
        return _from_equal_colours(colours, name)
    return _from_grey(brightest, name, lossy)


def _from_equal_colours(colours: np.ndarray, name: str) -> MaskFile:
    """Read a picture of colours none of which is darker: of two, that of the picture's border is outside.

    One colour alone is a lesion that fills the picture, as one grey is.
    """
    found, indices = np.unique(colours.reshape(-1, colours.shape[-1]), axis=0, return_inverse=True)
    if len(found) == 1:
        return MaskFile(np.ones(colours.shape[:2], np.int32))
    if len(found) > 2:
        raise InputError(
            f"'{name}' has {len(found)} colours, none of which is black or white: save it with black outside "
            "of the lesion."
        )
    indices = indices.reshape(colours.shape[:2])
    border = np.concatenate([indices[0], indices[-1], indices[:, 0], indices[:, -1]])
    outside = int(border.mean() > 0.5)
    return MaskFile((indices != outside).astype(np.int32))


def empty_mask(name: str) -> EmptyMaskError:
    """The sentence for a mask without a lesion."""
    return EmptyMaskError(
        f"The mask '{name}' is all black: "
        "draw the lesion with 255 (or 1), or take the image and its mask out."
    )


def _from_grey(grey: np.ndarray, name: str, lossy: bool) -> MaskFile:
    grey = np.maximum(grey.astype(np.uint8 if grey.dtype == np.bool_ else grey.dtype), 0)
    values = np.flatnonzero(np.bincount(grey.ravel())) if grey.dtype == np.uint8 else np.unique(grey)
    top = float(values[-1])
    whole = grey.dtype.kind in "iu" or bool((values == np.rint(values)).all())
    if top == 0 or (lossy and 1 < top < GREY_LOW):
        return MaskFile(np.zeros(grey.shape, np.int32))
    if len(values) == 1:
        return MaskFile(np.ones(grey.shape, np.int32))
    if len(values) == 2:
        inside = grey > (0 if values[0] > GREY_HIGH else values[0])
        return MaskFile(inside.astype(np.int32) * (int(top) if whole and top < GREY_LOW else 1))
    if whole and not lossy and top < GREY_LOW:
        return MaskFile(grey.astype(np.int32))
    if whole and not lossy and top == _VOID_CLASS and values[-2] < GREY_LOW and _is_thin(grey == top):
        return MaskFile(np.where(grey == top, 0, grey).astype(np.int32))
    flat = _flat(grey)
    white = top if top > 255 or top <= 1 else _level(grey, flat)
    scaled = grey if white == 255 else np.minimum(grey * (255.0 / white), 255.0)
    levels = np.unique(grey[flat & (grey > 0)]) if whole and not lossy else np.empty(0, grey.dtype)
    if len(values) > _FEW and len(levels) < 0.9 * (len(values) - 1):
        levels = levels[:0]
    core = (scaled > GREY_HIGH) | (flat & (grey == top)) | np.isin(grey, levels)
    between = (scaled >= GREY_LOW) & (scaled <= GREY_HIGH) & ~np.isin(grey, levels)
    far = between & ~_near_both(core, scaled < GREY_LOW)
    share = np.count_nonzero(far) / grey.size
    if share > GREY_SHARE:
        raise InputError(
            f"'{name}' is no mask: {share:.1%} of its pixels lie between {GREY_LOW} and {GREY_HIGH}, "
            f"and a mask has at most {GREY_SHARE:.0%} off its border; "
            "save it with 255 inside the lesion and 0 outside."
        )
    soft = bool(between.any())
    if not len(levels):
        return MaskFile((scaled > THRESHOLD).astype(np.int32), soft)
    steps = np.concatenate([[0.0], levels.astype(float)])
    indices = np.searchsorted((steps[1:] + steps[:-1]) / 2, grey, side="left")
    labels = np.rint(steps).astype(np.int32) if len(levels) > 1 else np.arange(2, dtype=np.int32)
    return MaskFile(labels[indices], soft)


def _flat(values: np.ndarray) -> np.ndarray:
    """Return where a pixel and its eight neighbours have one value."""
    from scipy.ndimage import maximum_filter, minimum_filter

    return minimum_filter(values, 3) == maximum_filter(values, 3)


def _level(grey: np.ndarray, flat: np.ndarray) -> float:
    """Return the value that a mask has inside: most of its flat bright area; 255 where there is none."""
    values, counts = np.unique(grey[flat & (grey > grey.max() / 2)], return_counts=True)
    if not len(values):
        return 255.0
    level = float(values[counts.argmax()])
    if level > GREY_HIGH:
        return 255.0
    alike = np.count_nonzero(np.abs(grey.astype(float) - level) <= max(1.0, 0.02 * level))
    return level if 2 * alike > np.count_nonzero(grey > level / 2) else 255.0


def _near_both(core: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Return which pixels lie near the core of a lesion and near what is outside of it: a soft border."""
    from scipy.ndimage import binary_opening, distance_transform_edt

    core = binary_opening(core, np.ones((3, 3), bool))  # speckle is no lesion
    if not core.any() or not outside.any():
        return np.zeros(core.shape, dtype=bool)
    reach = max(_SOFT_PIXELS, _SOFT_SHARE * float(np.sqrt(core.sum())))
    return (distance_transform_edt(~core) <= reach) & (distance_transform_edt(~outside) <= reach)


def _from_colours(colours: np.ndarray) -> np.ndarray | None:
    """Return the classes of a picture (H, W, 3) of few colours, one of which is black; else None."""
    if colours.dtype != np.uint8:
        return None
    packed = colours.astype(np.int32) @ np.array([65536, 256, 1])
    found, indices = np.unique(packed, return_inverse=True)
    indices = indices.reshape(packed.shape)
    palette = np.stack([found >> 16, (found >> 8) & 255, found & 255], axis=-1)
    black = (palette.max(axis=-1) < GREY_LOW) | (palette == _VOID).all(axis=-1)
    if not black.any() or len(found) > 16 * _FEW:
        return None
    flat = np.zeros(len(found), dtype=bool)
    flat[np.unique(indices[_flat(indices)])] = True
    areas = flat & ~black
    if not areas.any() or (len(found) > _FEW and areas.sum() > _FEW):
        return None
    # What is between two colours is a soft border: it goes to the nearest of them, or of black.
    classes = np.concatenate([[(0, 0, 0)], palette[areas]])
    nearest = np.linalg.norm(palette[:, None] - classes[None], axis=-1).argmin(axis=1)
    return np.where(black, 0, nearest).astype(np.int32)[indices]


def _from_palette(indices: np.ndarray, shown: np.ndarray) -> np.ndarray | None:
    """Return the indices of a palette's colours as classes, (H, W); None where its colours are grey levels.

    The index of black is outside, or 0 where no colour is black.
    """
    used, first = np.unique(indices, return_index=True)
    colours = shown.reshape(-1, shown.shape[-1])[first][:, :3].astype(int)
    one_colour = len(used) > 1 and (colours == colours[0]).all()
    if not one_colour and (colours == colours[:, :1]).all():
        return None
    black = used[(colours.max(axis=-1) < GREY_LOW)]
    outside = 0 if one_colour or not len(black) or 0 in black else int(black[0])
    labels = indices.astype(np.int32)
    labels = np.where(labels == 0, labels.max() + 1, labels) if outside else labels
    gone = [outside, *(used[(colours == _VOID).all(axis=-1)].tolist() if not one_colour else [])]
    return np.where(np.isin(indices, gone), 0, labels).astype(np.int32)


# --- shapes that are no lesion's -------------------------------------------------------------------

_THIN = 4
"""An outline's strokes are at most so many pixels from their middle to their edge."""


def is_outline(mask: np.ndarray) -> bool:
    """Whether a mask (H, W) is a thin line around something much larger, and not the thing itself."""
    from scipy.ndimage import binary_fill_holes

    area = int(mask.sum())
    if not area or area > 0.25 * mask.size:
        return False
    box = _bounds(mask)
    if not _is_thin(mask[box]):
        return False
    return int(binary_fill_holes(mask[box]).sum()) >= 3 * area or _is_open_outline(mask[box], area)


def _is_thin(mask: np.ndarray) -> bool:
    """Whether a mask has no place that is more than `_THIN` pixels away from what is outside of it."""
    from scipy.ndimage import minimum_filter

    return not minimum_filter(np.pad(mask, 1).view(np.uint8), 2 * _THIN + 1).any()


def is_inverted(mask: np.ndarray) -> bool:
    """Whether a mask (H, W) covers most of the picture and touches all four of its borders."""
    edges = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
    return bool(mask.mean() > 0.5 and not mask.all() and all(edge.any() for edge in edges))


def filled(mask: np.ndarray) -> np.ndarray:
    """Fill what the lines of a mask enclose; of an outline with a gap, its convex hull."""
    from scipy.ndimage import binary_closing, binary_fill_holes

    whole = binary_fill_holes(mask)
    if not is_outline(mask) or whole.sum() >= 3 * mask.sum():
        return whole
    closed = binary_fill_holes(binary_closing(np.pad(mask, 3), np.ones((3, 3)), iterations=2))[3:-3, 3:-3]
    if closed.sum() >= 3 * mask.sum():
        return closed | mask
    from skimage.morphology import convex_hull_image

    return convex_hull_image(mask)


def _is_open_outline(mask: np.ndarray, area: int) -> bool:
    from skimage.morphology import convex_hull_image

    if min(mask.shape) < 8 or area > 0.2 * mask.size:
        return False
    return int(convex_hull_image(mask).sum()) >= 5 * area


def _bounds(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
