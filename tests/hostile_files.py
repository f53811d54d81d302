"""Files that no honest program writes: endless, circular, deep, or not files at all."""

from __future__ import annotations

import gzip
import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import tifffile
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from bombs import meta, nifti, nrrd
from medical_files import save_dicom

SMALL = np.zeros((8, 8), np.uint8)
DEEP = np.zeros((8, 8, 3), np.uint16)


def png_with(path: Path, kind: bytes, data: bytes) -> None:
    """Write a picture with one more chunk before its pixels."""
    Image.fromarray(SMALL).save(path)
    content = path.read_bytes()
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content[:33] + chunk + content[33:])


def unfolding(name: bytes) -> bytes:
    return name + b"\0\0" + zlib.compress(bytes(2**26), 1)


def tiff_loop(path: Path, back_to_first: bool, pixels: np.ndarray = SMALL, pages: int = 2) -> None:
    """Write pages whose last names an earlier one as the next."""
    with tifffile.TiffWriter(path) as writer:
        for _ in range(pages):
            writer.write(pixels, metadata=None)
    content = bytearray(path.read_bytes())
    first = last = struct.unpack_from("<I", content, 4)[0]
    while True:
        place = last + 2 + 12 * struct.unpack_from("<H", content, last)[0]
        following = struct.unpack_from("<I", content, place)[0]
        if not following:
            break
        last = following
    struct.pack_into("<I", content, place, first if back_to_first else last)
    path.write_bytes(content)


def nifti_field(path: Path, name: str, value: object) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((8, 8))
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    header[name] = value
    path.write_bytes(header.binaryblock + bytes(500))


def deep_dicom(path: Path, depth: int) -> None:
    """Write sequences within sequences, of undefined length."""
    save_dicom(path, SMALL)
    content = path.read_bytes()
    start = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    place = content.index(b"\x08\x00\x60\x00CS")  # the modality
    path.write_bytes(content[:place] + start * depth + end * depth + content[place:])


def many_regions(path: Path, count: int) -> None:
    region = Dataset()
    region.RegionSpatialFormat = 1
    save_dicom(path, SMALL, SequenceOfUltrasoundRegions=Sequence([region] * count))


def twice_packed(path: Path) -> None:
    nifti(path, (8, 8), body=bytes(128))
    path.write_bytes(gzip.compress(path.read_bytes()))


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket may have 108 characters
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


ENDINGS = (".png", ".tif", ".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", ".gif", ".webp", "")

HOSTILE: dict[str, Callable[[Path], None]] = {
    **{f"pipe{ending}": os.mkfifo for ending in ENDINGS},
    **{f"loop{ending}": lambda p: p.symlink_to(p.name) for ending in ENDINGS},
    **{f"folder{ending}": lambda p: p.mkdir() for ending in ENDINGS},
    **{f"endless{ending}": lambda p: p.symlink_to("/dev/zero") for ending in ENDINGS},
    "socket.png": bound_socket,
    "text.png": lambda p: png_with(p, b"zTXt", unfolding(b"Comment")),
    "profile.png": lambda p: png_with(p, b"iCCP", unfolding(b"x")),
    "long_text.png": lambda p: png_with(p, b"tEXt", b"Comment\0" + b"x" * 2**22),
    "itself.tif": lambda p: tiff_loop(p, False),
    "circle.tif": lambda p: tiff_loop(p, True),
    "deep_itself.tif": lambda p: tiff_loop(p, False, DEEP),
    "deep_circle.tif": lambda p: tiff_loop(p, True, DEEP),
    "long_circle.tif": lambda p: tiff_loop(p, True, DEEP, 150),
    "before.nii": lambda p: nifti_field(p, "vox_offset", -1e6),
    "nan.nii": lambda p: nifti_field(p, "vox_offset", np.nan),
    "far.nii": lambda p: nifti_field(p, "vox_offset", 1e30),
    "dims.nii": lambda p: nifti_field(p, "dim", [2, -8, -8, 1, 1, 1, 1, 1]),
    "none.nii": lambda p: nifti_field(p, "dim", [0] * 8),
    "steps.nii": lambda p: nifti_field(p, "pixdim", [np.nan, np.inf, 0, 1, 1, 1, 1, 1]),
    "slope.nii": lambda p: nifti_field(p, "scl_slope", np.inf),
    "twice.nii.gz": twice_packed,
    "list.nhdr": lambda p: nrrd(p, "8 8", "raw", place="LIST"),
    "names.nhdr": lambda p: nrrd(p, "8 8", "raw", place="a%09d.raw 1 999999999 1"),
    "itself.nhdr": lambda p: nrrd(p, "8 8", "raw", place=p.name),
    "list.mhd": lambda p: meta(p, "8 8", place="LIST"),
    "names.mhd": lambda p: meta(p, "8 8", place="a%09d.raw 1 999999999 1"),
    "itself.mhd": lambda p: meta(p, "8 8", place=p.name),
    "spacing.mha": lambda p: meta(p, "8 8", body=bytes(64), ElementSpacing="nan inf"),
    "deep.dcm": lambda p: deep_dicom(p, 1000),
    "deeper.dcm": lambda p: deep_dicom(p, 100_000),
    "regions.dcm": lambda p: many_regions(p, 2000),
    "frames.dcm": lambda p: save_dicom(p, SMALL, NumberOfFrames=10**9),
    f"{'n' * 251}.png": lambda p: Image.fromarray(SMALL).save(p),
    f"{'ü' * 125}.png": lambda p: Image.fromarray(SMALL).save(p),
}
"""How to write each, by name."""
