"""NIfTI, NRRD and MetaImage files: which of their axes are x and y, colours, and frames."""

from __future__ import annotations

import gzip
import io
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmsfe_sam.errors import InputError
from lmsfe_sam.images import metaimage
from lmsfe_sam.images.formats import PAIR_SUFFIX, is_pair_header, known_suffix
from lmsfe_sam.images.image import LPS_TO_RAS, FileImage, Header, ImageFile
from lmsfe_sam.images.limits import CHUNK, MAX_HEADER, decompress_bounded
from lmsfe_sam.images.nrrd_header import read_nrrd_header
from lmsfe_sam.images.scale import UNKNOWN_SCALE, Scale, header_scale, is_known

logger = logging.getLogger(__name__)

_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}
"""NIfTI's codes for metre, millimetre and micrometre."""

_GZIP = b"\x1f\x8b"
"""What a compressed file begins with."""

_HEADER_SIZES = {348, 540}
"""What a file of NIfTI 1 or 2 begins with."""

_VECTOR_INTENTS = (1007, 2003, 2004)
"""NIfTI's codes for a vector, RGB and RGBA in the last axis."""

_COLOUR_KINDS = frozenset(
    {
        *("rgb-color", "rgba-color", "3-color", "4-color", "vector", "2-vector", "3-vector", "4-vector"),
        *("covariant-vector", "hsv-color", "xyz-color"),
    }
)
_FRAME_KINDS = frozenset({"list", "time", "scalar", "point", "normal"})
"""Kinds of NRRD's axes that are neither space nor colours."""

_NRRD_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "micron": 0.001, "\N{MICRO SIGN}m": 0.001}


def open_nifti(file: Path) -> ImageFile:
    """Read the header of a NIfTI file.

    Raises:
        InputError: it is of more than three dimensions, or not NIfTI.
    """
    import nibabel

    if known_suffix(file) == PAIR_SUFFIX:
        _check_pair(file)
    raw = _raw_nifti(file)
    if not 0 <= float(raw["vox_offset"]) <= MAX_HEADER:  # all before the voxels is read at once
        raise InputError(f"'{file}' has a header of more than {MAX_HEADER} bytes: save it again.")
    with _quiet_nibabel():
        image: Any = nibabel.load(file)
    shape = tuple(int(size) for size in image.shape)
    packed = image.get_data_dtype()
    samples, spatial = len(packed.fields or "-"), shape
    is_vector = int(raw["intent_code"]) in _VECTOR_INTENTS
    # The fifth axis by the standard; some writers leave the axes of length 1 before it out.
    vector = is_vector and (len(shape) == 5 or (len(shape) > 2 and 2 <= shape[-1] <= 4))
    if vector:
        samples, spatial = shape[-1], tuple(shape[:-1])
        while len(spatial) > 2 and spatial[-1] == 1:
            spatial = spatial[:-1]
    _check_samples(samples, file)
    count = _frames(spatial, file)
    unit = _MILLIMETRES.get(int(raw["xyzt_units"]) & 7, 1.0)
    affine = np.array(image.affine, dtype=float)
    spacing = np.linalg.norm(affine[:3, :2], axis=0)[::-1] * unit
    if not is_known([float(step) for step in raw["pixdim"][[2, 1]]]):
        spacing = np.array(raw["pixdim"][[2, 1]], dtype=float)
    scale = header_scale([float(step) for step in spacing], str(file))

    def read(frame: int) -> FileImage:
        index = [slice(None), slice(None), *(frame if size > 1 else 0 for size in spatial[2:])]
        index += [0] * (len(shape) - len(index) - vector) + [slice(None)] * vector
        with _quiet_nibabel():
            pixels = np.asanyarray(image.dataobj[tuple(index)])
        if pixels.dtype.fields:  # RGB24 and RGBA32 are structures of bytes
            pixels = np.stack([pixels[name] for name in pixels.dtype.fields], axis=-1)
        return FileImage(_rows_first(pixels), _usable(affine, file), spatial, frame, scale)

    bits = 8 if packed.fields else 8 * packed.itemsize
    packed_file = file.name.lower().endswith(".gz")
    return ImageFile(Header(count, spatial[1], spatial[0], samples, bits, read_together=packed_file), read)


def open_nrrd(file: Path) -> ImageFile:
    """Read the header of a NRRD file.

    An axis is a colour where its kind says so, or where it comes first without a kind and has 2 to 4 entries;
    a list, time or third spatial axis counts frames.

    Raises:
        InputError: it has more than one axis of frames, or is not NRRD.
    """
    header, _ = read_nrrd_header(file)
    sizes = [int(size) for size in header["sizes"]]
    kinds = [str(kind or "").lower() for kind in header.get("kinds", [])] or [""] * len(sizes)
    directions = _directions(header, len(sizes))
    colour = next((k for k, kind in enumerate(kinds) if kind in _COLOUR_KINDS), None)
    if colour is None and len(sizes) > 2 and kinds[0] in ("", "none", "???") and 2 <= sizes[0] <= 4:
        colour = 0 if directions is None or not np.isfinite(directions[0]).all() else None
    counted = [k for k, kind in enumerate(kinds) if k != colour and kind in _FRAME_KINDS]
    space = [k for k in range(len(sizes)) if k != colour and k not in counted]
    while len(space) > 2 and len(wide := [k for k in space if sizes[k] > 1]) >= 2 and len(wide) < len(space):
        space.remove(next(k for k in reversed(space) if sizes[k] == 1))
    if len(space) < 2:
        raise InputError(f"'{file}' has the shape {tuple(sizes)}: save one 2-D or 3-D image of it.")
    order = [*space, *counted]
    flat = [k for k in range(len(sizes)) if k != colour and k not in order]
    spatial = tuple(sizes[k] for k in order)
    samples = 1 if colour is None else sizes[colour]
    _check_samples(samples, file)
    count = _frames(spatial, file)
    affine, scale = _nrrd_geometry(header, directions, order, file)

    def read(frame: int) -> FileImage:
        volume = _nrrd_volume(file)
        volume = volume.transpose([*order, *flat, *([] if colour is None else [colour])])
        volume = volume.reshape(*spatial[:2], count, *([] if colour is None else [samples]))
        return FileImage(_rows_first(volume[:, :, frame]), affine, spatial, frame, scale)

    bits = 8 * np.dtype(_nrrd_type(header, file)).itemsize
    return ImageFile(Header(count, spatial[1], spatial[0], samples, bits, read_together=True), read)


def open_metaimage(file: Path) -> ImageFile:
    """Read the header of a MetaImage file.

    Raises:
        InputError: it has more than one axis of frames, or is not MetaImage.
    """
    header = metaimage.read_header(file)
    _check_samples(header.channels, file)
    spatial = header.sizes
    count = _frames(spatial, file)
    scale = UNKNOWN_SCALE
    steps = [1.0] * len(spatial)
    if header.spacing is not None:
        stated = (header.spacing[1], header.spacing[0])
        scale = header_scale(stated, str(file))
        steps = [abs(step) if math.isfinite(step) and step else 1.0 for step in header.spacing]
    n = min(3, len(spatial))
    affine = np.eye(4)
    affine[:n, :n] = header.direction[:n, :n] @ np.diag(steps[:n])
    affine[:n, 3] = header.origin[:n]
    affine = _usable(LPS_TO_RAS @ affine, file)

    def read(frame: int) -> FileImage:
        volume = metaimage.read_volume(file, header)
        volume = volume.reshape(*spatial[:2], count, *volume.shape[len(spatial) :])
        return FileImage(_rows_first(volume[:, :, frame]), affine, spatial, frame, scale)

    bits = 8 * header.dtype.itemsize
    return ImageFile(Header(count, spatial[1], spatial[0], header.channels, bits, read_together=True), read)


def _frames(spatial: Sequence[int], file: Path) -> int:
    """Return the number of frames of a volume (x, y, ...): that of its one longer axis behind x and y."""
    stacked = [size for size in spatial[2:] if size != 1]
    if len(spatial) < 2 or len(stacked) > 1:
        raise InputError(f"'{file}' has the shape {tuple(spatial)}: save one 2-D or 3-D image of it.")
    if min(spatial) < 1:
        raise InputError(f"'{file}' has no pixels: copy it again from its source.")
    if stacked and min(spatial[:2]) == 1:
        raise InputError(
            f"'{file}' has the shape {tuple(spatial)}, slices of {spatial[0]} x {spatial[1]} pixels: save it "
            "with its axis of length 1 last."
        )
    return stacked[0] if stacked else 1


def _check_samples(samples: int, file: Path) -> None:
    if not 1 <= samples <= 4:
        raise InputError(f"'{file}' has {samples} values a pixel: save it grey or as RGB.")


def _rows_first(pixels: np.ndarray) -> np.ndarray:
    """Turn (x, y[, colours]) into (rows, columns[, colours])."""
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    return np.swapaxes(pixels, 0, 1)


def _usable(affine: np.ndarray, file: Path) -> np.ndarray:
    """Return an affine, or that of no geometry where it cannot be inverted."""
    if np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-12:
        return affine
    logger.warning("'%s' has a geometry that cannot be: the masks get none.", file)
    return LPS_TO_RAS


def _check_pair(file: Path) -> None:
    """Refuse a header that is not of a NIfTI pair, or has no file of voxels beside it."""
    if not is_pair_header(file):
        raise InputError(f"'{file}' is no header of a NIfTI pair: save the image as one .nii.gz.")
    voxels = file.with_suffix(".IMG" if file.suffix.isupper() else ".img")
    if not voxels.is_file():
        raise InputError(f"'{file}' has its voxels in '{voxels.name}', which is no file: put it beside it.")


def _raw_nifti(file: Path) -> Any:
    """Read a NIfTI header as it is in the file; nibabel mends what it takes for mistakes."""
    import nibabel

    named_packed = file.name.lower().endswith(".gz")
    with file.open("rb") as stream:
        start = stream.read(4)
    packed = start[:2] == _GZIP
    plain = {int.from_bytes(start, order) for order in ("little", "big")} & _HEADER_SIZES
    if (packed and not named_packed) or (plain and named_packed):
        right = f"{file.name}.gz" if packed else file.name[: -len(".gz")]
        raise InputError(
            f"'{file}' is {'' if packed else 'not '}compressed, unlike its name says: rename it to {right}."
        )
    opener: Callable[..., Any] = gzip.open if packed else open
    with opener(file, "rb") as stream:
        block = stream.read(nibabel.Nifti2Header.sizeof_hdr)
    first = {int.from_bytes(block[:4], order) for order in ("little", "big")}
    kinds = (nibabel.Nifti1Header, nibabel.Nifti2Header)
    kind = next((kind for kind in kinds if kind.sizeof_hdr in first), None)
    if kind is None or len(block) < kind.sizeof_hdr:
        raise ValueError("it has no header of NIfTI")
    return kind.from_fileobj(io.BytesIO(block[: kind.sizeof_hdr]), check=False)


def _quiet_nibabel() -> Any:
    """Keep nibabel from writing of what it mends: the warning of the scale names the file."""
    from nibabel.imageglobals import LoggingOutputSuppressor

    return LoggingOutputSuppressor()


def _directions(header: Any, axes: int) -> np.ndarray | None:
    """Return the vector (axes, D) of each axis, NaN rows for those without; None where none is stated."""
    stated = header.get("space directions")
    if stated is None:
        return None
    width = next((len(row) for row in stated if row is not None), 3)
    rows = [[math.nan] * width if row is None else row for row in stated]
    return np.array(rows, float).reshape(axes, width)


def _nrrd_geometry(
    header: Any, directions: np.ndarray | None, order: Sequence[int], file: Path
) -> tuple[np.ndarray, Scale]:
    """Return the affine of the axes in ``order``, and the scale."""
    units = [str(unit).strip('"').lower() for unit in header.get("space units", header.get("units", []))]
    unit = _NRRD_MM.get(units[0], 1.0) if units else 1.0
    steps, affine = None, np.eye(4)
    if directions is not None:
        vectors = directions[list(order)]
        steps = np.linalg.norm(vectors, axis=1)
        space = str(header.get("space", "left-posterior-superior")).lower().replace(" ", "-")
        vectors = np.nan_to_num(vectors[:3, :3], nan=0.0)
        affine[: vectors.shape[1], : len(vectors)] = vectors.T
        if len(vectors) < 3 or not vectors[2].any():  # a list has no direction
            affine[:3, 2] = _normal(affine[:3, :2])
        origin = np.array(header.get("space origin", [0.0] * vectors.shape[1]), float)[:3]
        affine[: len(origin), 3] = np.nan_to_num(origin)
        affine = _to_ras(space) @ affine
    elif header.get("spacings") is not None:
        steps = np.array(header["spacings"], float)[list(order)]
        affine = LPS_TO_RAS @ np.diag([*(np.where(np.isfinite(steps) & (steps > 0), steps, 1.0)[:2]), 1, 1])
    else:
        return LPS_TO_RAS, UNKNOWN_SCALE
    spacing = (float(steps[1]) * unit, float(steps[0]) * unit)
    return _usable(affine, file), header_scale(spacing, str(file))


def _normal(plane: np.ndarray) -> np.ndarray:
    normal = np.cross(plane[:, 0], plane[:, 1])
    length = np.linalg.norm(normal)
    return normal / length if length else np.array([0.0, 0.0, 1.0])


def _to_ras(space: str) -> np.ndarray:
    """Return the signs that bring a space of NRRD to RAS."""
    first = {
        "left-posterior-superior": (-1, -1, 1),
        "lps": (-1, -1, 1),
        "left-anterior-superior": (-1, 1, 1),
        "las": (-1, 1, 1),
        "right-anterior-superior": (1, 1, 1),
        "ras": (1, 1, 1),
    }
    signs = first.get(space.removesuffix("-time").removesuffix("t"), (-1, -1, 1))
    return np.diag([*(float(sign) for sign in signs), 1.0])


def _nrrd_volume(file: Path) -> np.ndarray:
    """Read the values of a NRRD file, and no more than its header states.

    pynrrd would decompress, and read of the file of the pixels, all that there is.

    Raises:
        InputError: the pixels are elsewhere than in a file, or decompress to more than is stated.
    """
    import nrrd

    with file.open("rb") as own:
        header, size = read_nrrd_header(file)
        own.seek(size)
        data_file = next((header.pop(key) for key in ("data file", "datafile") if key in header), None)
        with own if data_file is None else _detached(file, data_file).open("rb") as stream:
            for _ in range(int(next((header.pop(k) for k in ("line skip", "lineskip") if k in header), 0))):
                if not stream.readline(MAX_HEADER):
                    break
            skip = int(next((header.pop(k) for k in ("byte skip", "byteskip") if k in header), 0))
            values = math.prod(int(size) for size in header["sizes"])
            length = values * np.dtype(_nrrd_type(header, file)).itemsize
            encoding = str(header["encoding"]).lower()
            if encoding in ("gzip", "gz", "bzip2", "bz2"):
                method = "bz2" if encoding.startswith("b") else "zlib"
                content = decompress_bounded(stream, length + max(skip, 0) + CHUNK, file, method)
                content = content[-length:] if skip == -1 else content[max(skip, 0) :]
                header["encoding"] = "raw"
            elif encoding == "raw":
                stream.seek(*((-length, 2) if skip == -1 else (max(skip, 0), 1)))
                content = stream.read(length)
            elif encoding == "hex":
                stream.seek(max(skip, 0), 1)
                content = bytes.fromhex(stream.read(3 * length).decode("ascii"))[:length]
                header["encoding"] = "raw"
            else:
                stream.seek(max(skip, 0), 1)
                content = stream.read(64 * values)
    return nrrd.read_data(header, io.BytesIO(content), str(file))


def _detached(file: Path, data_file: Any) -> Path:
    """Return the file of the pixels that a header names."""
    path = file.parent / str(data_file).replace("\\", "/")
    if not isinstance(data_file, str) or data_file.upper().startswith("LIST") or "%" in data_file:
        raise InputError(f"'{file}' has its pixels in several files: save it as one .nrrd.")
    if not path.is_file():
        raise InputError(
            f"'{file}' has its pixels in '{data_file}', which is no file: put it beside the header."
        )
    if path.samefile(file):
        raise InputError(f"'{file}' names itself as the file of its pixels: put that file's name into it.")
    return path


def _nrrd_type(header: Any, file: Path) -> str:
    import nrrd

    stated = str(header["type"])
    found = nrrd.reader._TYPEMAP_NRRD2NUMPY.get(stated)
    if found is None or found == "V":
        raise InputError(f"'{file}' holds values of the type {stated}: save it as whole or real numbers.")
    return str(found)
