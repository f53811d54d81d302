"""Small files that state, or decompress to, far more than they should hold."""

from __future__ import annotations

import bz2
import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import tifffile
from PIL import Image
from pydicom import dcmread, dcmwrite
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from medical_files import save_dicom

UNFOLDED = 2**25
"""Bytes of zeros that the compressed ones decompress to."""

ZEROS = bytes(UNFOLDED)


def nifti(
    path: Path, shape: tuple[int, ...], offset: int = 352, slope: float = 1.0, body: bytes = b""
) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header["vox_offset"], header["scl_slope"], header["magic"] = offset, slope, b"n+1"
    packed = path.suffix == ".gz"
    with gzip.open(path, "wb", 1) if packed else path.open("wb") as file:
        file.write(header.binaryblock + b"\1\0\0\0" + struct.pack("<ii", offset - 352, 4) + body)


def nrrd(path: Path, sizes: str, encoding: str, body: bytes = b"", place: str = "") -> None:
    lines = ["NRRD0004", "type: uchar", f"dimension: {len(sizes.split())}", f"sizes: {sizes}"]
    lines += [f"encoding: {encoding}", *([f"data file: {place}"] if place else [])]
    path.write_bytes(("\n".join(lines) + "\n\n").encode() + body)


def meta(path: Path, sizes: str, body: bytes = b"", place: str = "LOCAL", **more: object) -> None:
    lines = {"NDims": len(sizes.split()), "DimSize": sizes, "ElementType": "MET_UCHAR", **more}
    text = "".join(f"{key} = {value}\n" for key, value in lines.items()) + f"ElementDataFile = {place}\n"
    path.write_bytes(text.encode() + body)


def png(path: Path, width: int, height: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(bytes(2**20))), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def dicom(path: Path, syntax: str, frame: bytes, **attributes: object) -> None:
    save_dicom(path, np.zeros((8, 8), np.uint8))
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    for name, value in attributes.items():
        setattr(dataset, name, value)
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    dcmwrite(path, dataset)


def deflated(path: Path) -> None:
    save_dicom(path, np.zeros((8, 8), np.uint8))
    plain = path.read_bytes()
    start = 144 + dcmread(path).file_meta.FileMetaInformationGroupLength
    syntax = str(DeflatedExplicitVRLittleEndian).encode()
    old = str(ExplicitVRLittleEndian).encode() + b"\0"
    meta = plain[:start].replace(struct.pack("<H", len(old)) + old, struct.pack("<H", len(syntax)) + syntax)
    grown = len(meta) - start
    meta = meta.replace(struct.pack("<I", start - 144), struct.pack("<I", start - 144 + grown), 1)
    private = struct.pack("<HH2sHI", 0x7FE1, 0x1010, b"OB", 0, UNFOLDED) + ZEROS
    tool = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    path.write_bytes(meta + tool.compress(plain[start:] + private) + tool.flush())


def tiled_tiff(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), tile=(16, 16))
    with tifffile.TiffFile(path, mode="r+b") as file:
        for tag in ("TileWidth", "TileLength"):
            file.pages[0].tags[tag].overwrite(2**15)


def large_second_page(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8), metadata=None)
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8), metadata=None, append=True)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            file.pages[1].tags[tag].overwrite(60000)


def unfolding_tiff(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((8, 8, 3), np.uint16), photometric="rgb", compression="zlib")
    with tifffile.TiffFile(path, mode="r+b") as file:
        packed = zlib.compress(ZEROS, 1)
        place = path.stat().st_size
        file.pages[0].tags["StripOffsets"].overwrite(place)
        file.pages[0].tags["StripByteCounts"].overwrite(len(packed))
    with path.open("ab") as stream:
        stream.write(packed)


def gif(path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[6:10] = struct.pack("<HH", 65535, 65535)
    path.write_bytes(content)


JPEG = b"\xff\xd8\xff\xc0\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00"
JPEG2000 = b"\xff\x4f\xff\x51\x00\x29\x00\x00" + struct.pack(">IIII", 100_000, 100_000, 0, 0) + bytes(40)

BOMBS: dict[str, Callable[[Path], None]] = {
    "zeros.nii.gz": lambda p: nifti(p, (20000, 20000), body=bytes(2**20)),
    "slope.nii.gz": lambda p: nifti(p, (4096, 4096, 100), slope=0.5, body=bytes(2**20)),
    "large.nii": lambda p: nifti(p, (16000, 16000)),
    "extension.nii.gz": lambda p: nifti(p, (8, 8), offset=UNFOLDED, body=ZEROS),
    "claims.nrrd": lambda p: nrrd(p, "100000 100000", "raw"),
    "unfolds.nrrd": lambda p: nrrd(p, "8 8", "gzip", gzip.compress(ZEROS, 1)),
    "unfolds_bz2.nrrd": lambda p: nrrd(p, "8 8", "bzip2", bz2.compress(ZEROS)),
    "endless.nhdr": lambda p: nrrd(p, "8 8", "gzip", place="/dev/zero"),
    "endless_raw.nhdr": lambda p: nrrd(p, "8 8", "raw", place="/dev/zero"),
    "claims.mha": lambda p: meta(p, "100000 100000"),
    "channels.mha": lambda p: meta(p, "8 8", ElementNumberOfChannels=10**9),
    "endless.mhd": lambda p: meta(p, "8 8", place="/dev/zero"),
    "none.mha": lambda p: meta(p, "8 8", body=bytes(64), NDims=0),
    "short.mha": lambda p: meta(p, "10000 10000"),
    "deflated.dcm": deflated,
    "runs.dcm": lambda p: dicom(p, RLELossless, bytes(64), Rows=65535, Columns=65535),
    "jpeg.dcm": lambda p: dicom(p, JPEGBaseline8Bit, JPEG),
    "jpeg2000.dcm": lambda p: dicom(p, JPEG2000Lossless, JPEG2000),
    "wide.png": lambda p: png(p, 170_000_000, 1),
    "large.png": lambda p: png(p, 60000, 60000),
    "canvas.gif": gif,
    "tile.tif": tiled_tiff,
    "second_page.tif": large_second_page,
    "unfolds.tif": unfolding_tiff,
}
"""How to write each, by name."""
