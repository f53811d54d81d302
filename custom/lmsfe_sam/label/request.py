"""Transforms for requests of MONAI Label: parameters to a slice and prompts, label maps to the answer.

A request's parameters reach the bundle's preprocessing in its data, beside the image's path:

- ``foreground`` and ``background``: clicks, [x, y] or [x, y, slice];
- ``roi``: a box, from CVAT [x0, y0, x1, y1] or its two corners [[x0, y0], [x1, y1]], from 3D Slicer
  [i0, i1, j0, j1, k0, k1], in any order;
- ``slice``: which slice of a volume; without it that of the clicks or the box.

Records of the command line have no ``image_path`` and pass through all transforms as they are.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import MetaKeys

from lmsfe_sam.errors import InputError, short_repr
from lmsfe_sam.images.formats import PICTURE_SUFFIXES, is_dicom, known_suffix, stem
from lmsfe_sam.inference.inferers import PROMPTS
from lmsfe_sam.inference.transforms import OBJECTS, SLICE
from lmsfe_sam.inference.writers.label_maps import DICOM_SUFFIX, OUTPUT_SUFFIXES, to_file_axes
from lmsfe_sam.prompts.prompt import ObjectPrompt

REQUEST = "image_path"
"""The key that a MONAI Label server adds to every request, and nothing else does."""

EXTENSION = "result_extension"
EXTENSIONS = (*OUTPUT_SUFFIXES, ".seg.nrrd", DICOM_SUFFIX)
DTYPE = "result_dtype"

FOUND = "found"
"""The key of what `lmsfe_sam.inference.writers` take, where a DICOM segmentation is asked for."""

RESULT = "result"
"""The key of what the server returns beside the file."""


class Region(NamedTuple):
    """A request's ``roi``.

    Attributes:
        box: x0, y0, x1, y1, sorted.
        slices: first and last slice, or None where the box is flat.
    """

    box: tuple[float, float, float, float]
    slices: tuple[float, float] | None


class _RequestTransformd(MapTransform):
    """A transform of a server's requests; records of the command line pass through as they are."""

    def __init__(self, keys: KeysCollection = "image") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data, changed by `read` if it is a request's."""
        result = dict(data)
        if REQUEST in result:
            self.read(result)
        return result

    @abstractmethod
    def read(self, request: dict[Hashable, Any]) -> None:
        """Change a request's data."""


class ChooseSliced(_RequestTransformd):
    """Put the slice that a request is about into the data, where `LoadFileImaged` looks for it.

    It is the parameter ``slice``, else that of the last foreground click, of the last background
    click, or the middle one of the box.

    Args:
        keys: of the image, as for every MONAI `MapTransform`.

    Raises:
        InputError: when called, on an invalid parameter.
    """

    def read(self, request: dict[Hashable, Any]) -> None:  # noqa: D102
        check_result(request)
        index = chosen_slice(request)
        if index is None:
            request.pop(SLICE, None)
        else:
            request[SLICE] = index


class ReadPromptsd(_RequestTransformd):
    """Turn a request's clicks and box on the image's slice into the prompt of one object.

    A box may hang over the image's border, where it is cut.

    Args:
        keys: of the loaded image, (C, H, W), with the metadata of `LoadFileImaged`.

    Raises:
        InputError: when called, on an invalid parameter, or on prompts of other slices only.
    """

    def read(self, request: dict[Hashable, Any]) -> None:  # noqa: D102
        for key in self.key_iterator(request):
            stacked = np.prod(request[key].meta["spatial_shape"][2:], dtype=int) > 1
            index = int(request[key].meta[SLICE]) if stacked else None
            prompt = read_prompt(request, index)
            request[PROMPTS] = [prompt] if prompt else []


def add_request_transforms(config: Any) -> None:
    """Let a bundle's inference config, a `ConfigParser`, take the requests of MONAI Label."""
    before: list[dict[str, Any]] = config["preprocessing#transforms"]
    attach = next(i for i, t in enumerate(before) if t["_target_"].endswith(".AttachPromptsd"))
    choose, read = ({"_target_": f"{__name__}.{kind.__name__}"} for kind in (ChooseSliced, ReadPromptsd))
    config["preprocessing#transforms"] = [choose, *before[:attach], read, *before[attach:]]
    after = config["postprocessing#transforms"]
    config["postprocessing#transforms"] = [*after, {"_target_": f"{__name__}.AnswerRequestd"}]


def read_prompt(request: Mapping[Any, Any], index: int | None) -> ObjectPrompt:
    """Return what a request says about its object, which may be nothing.

    Args:
        request: with the parameters named above, all optional.
        index: of the slice; prompts of others are left out. None where the file has but one.

    Raises:
        InputError: an invalid parameter, or prompts of other slices only.
    """
    inside, outside = read_clicks(request, "foreground"), read_clicks(request, "background")
    region = read_region(request.get("roi"))
    if index is not None:
        given = len(inside) + len(outside) + (region is not None)
        inside, outside = ([click for click in clicks if _on(click, index)] for clicks in (inside, outside))
        if region and region.slices and not region.slices[0] <= index <= region.slices[1]:
            region = None
        if given and not inside and not outside and not region:
            raise InputError(
                f"none of the prompts lies on slice {index}: "
                f"give clicks [x, y, {index}] or a roi that spans it."
            )
    box = None if region is None else region.box
    points = tuple((x, y) for x, y, *_ in (*inside, *outside))
    return ObjectPrompt(box, points, (1,) * len(inside) + (0,) * len(outside))


def chosen_slice(request: Mapping[Any, Any]) -> int | None:
    """Return the slice that a request is about, or None where it says nothing of it.

    Raises:
        InputError: an invalid parameter.
    """
    index = request.get(SLICE)
    if index is not None and (isinstance(index, bool) or not isinstance(index, int)):
        raise InputError(f"slice is {_short(index)}: give a whole number, 0 for the first slice.")
    if index is not None and index >= 0:  # clients say -1 for none
        return index
    for key in ("foreground", "background"):
        slices = [click[2] for click in read_clicks(request, key) if len(click) > 2]
        if slices:
            return round(slices[-1])
    region = read_region(request.get("roi"))
    return None if region is None or region.slices is None else round(sum(region.slices)) // 2


def read_clicks(request: Mapping[Any, Any], key: str) -> list[tuple[float, ...]]:
    """Return a request's clicks, (x, y) or (x, y, slice).

    Raises:
        InputError: not a list of them.
    """
    clicks = request.get(key) or []
    if not isinstance(clicks, Sequence) or isinstance(clicks, str):
        raise InputError(f"{key} is {_short(clicks)}: give a list of clicks [x, y] or [x, y, slice].")
    for click in clicks:
        if not _numbers(click) or len(click) not in (2, 3) or any(coordinate < 0 for coordinate in click[2:]):
            raise InputError(f"{key} has the click {_short(click)}: give [x, y] or [x, y, slice] in pixels.")
    return [tuple(click) for click in clicks]


def read_region(roi: Any) -> Region | None:
    """Read a box in CVAT's order or in 3D Slicer's, which differ in length.

    Raises:
        InputError: neither.
    """
    if roi is None or (isinstance(roi, Sequence) and len(roi) == 0):
        return None
    if isinstance(roi, list) and len(roi) == 2 and all(_numbers(corner) for corner in roi):
        roi = [*roi[0], *roi[1]]
    if not _numbers(roi) or len(roi) not in (4, 6):
        raise InputError(
            f"roi is {_short(roi)}: give [x0, y0, x1, y1] or [i0, i1, j0, j1, k0, k1] in pixels."
        )
    if len(roi) == 4:
        (x0, x1), (y0, y1), slices = sorted(roi[0::2]), sorted(roi[1::2]), None
    else:
        (x0, x1), (y0, y1), (k0, k1) = sorted(roi[0:2]), sorted(roi[2:4]), sorted(roi[4:6])
        slices = (float(k0), float(k1))
    if x0 == x1 or y0 == y1:
        raise InputError(f"roi is {_short(roi)}, which has no area: give two different corners.")
    return Region((float(x0), float(y0), float(x1), float(y1)), slices)


def check_result(request: Mapping[Any, Any]) -> None:
    """Refuse a result's format or type that cannot be written, before anything is computed.

    Raises:
        InputError: an unknown extension or number type, or a DICOM segmentation of what is not DICOM.
    """
    extension, dtype = request.get(EXTENSION), request.get(DTYPE)
    if extension and extension not in EXTENSIONS:
        raise InputError(
            f"{EXTENSION} is {_short(extension)}: give one of {', '.join(EXTENSIONS)}, or leave it out."
        )
    image = Path(str(request.get(REQUEST, "")))
    if extension == DICOM_SUFFIX and not is_dicom(image):
        raise InputError(
            f"'{image.name}' is no DICOM file, and a DICOM segmentation belongs to one: give one of "
            f"{', '.join(OUTPUT_SUFFIXES)} with {EXTENSION}, or output=image."
        )
    if dtype and dtype not in ("uint8", "uint16", "int16", "uint32", "int32", "float32", "float64"):
        raise InputError(f"{DTYPE} is {_short(dtype)}: give uint8 or uint16, or leave it out.")


def _on(click: tuple[float, ...], index: int) -> bool:
    return len(click) < 3 or round(click[2]) == index


def _numbers(values: Any) -> bool:
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and all(
            isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**31
            for value in values
        )
    )


def _short(value: Any) -> str:
    text = short_repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class AnswerRequestd(MapTransform):
    """Bring the label map of a MONAI Label request into the axes of its file.

    MONAI Label's writer wants (x, y) for pictures and (x, y, slices) for volumes, without a channel,
    and what it takes for the file's shape in the image's metadata. It would write the labels of a
    JPEG as a JPEG, which blurs them, and those of DICOM as DICOM: these become PNG and NIfTI, unless a
    DICOM segmentation is asked for, which `lmsfe_sam.label.answers` writes. The
    predicted IoU, the area and the extent are returned beside the file.

    Records of the command line pass through as they are.

    Args:
        keys: of the label maps, (1, H, W).
        image_key: of the image.
        allow_missing_keys: as for every MONAI `MapTransform`.
    """

    def __init__(
        self, keys: KeysCollection = "pred", image_key: str = "image", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:  # noqa: D102
        result = dict(data)
        if REQUEST not in result:
            return result
        meta = result[self.image_key].meta
        result[EXTENSION] = result.get(EXTENSION) or label_suffix(result[REQUEST])
        if result[EXTENSION] == DICOM_SUFFIX:  # its writer takes (1, H, W), which MONAI Label would resize
            image = Path(str(result[REQUEST]))
            result[FOUND] = {**result, "name": image.name, "stem": stem(image)}
        for key in self.key_iterator(result):
            labels = result[key][0].cpu().numpy().astype(np.uint8)
            result[key] = in_file_axes(labels, meta, result[EXTENSION])
            meta[MetaKeys.SPATIAL_SHAPE] = np.array(result[key].shape)
        result[RESULT] = {**result[OBJECTS][0], SLICE: int(meta[SLICE])}
        return result


def in_file_axes(labels: np.ndarray, meta: Mapping[str, Any], suffix: str) -> np.ndarray:
    """Bring labels (H, W) into (x, y) for a picture, or into (x, y, slices) with the others 0."""
    if suffix == ".png":
        return np.ascontiguousarray(labels.T)
    volume = to_file_axes(labels, meta)
    return volume.reshape(*volume.shape[:2], -1)


def label_suffix(image: str) -> str:
    """Return the format for the labels of an image: the image's own, where that keeps labels as they are."""
    suffix = known_suffix(Path(image))
    if suffix in PICTURE_SUFFIXES:
        return ".png"
    return suffix if suffix in OUTPUT_SUFFIXES else ".nii.gz"
