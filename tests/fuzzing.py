"""What is given to the fuzz tests, and to the long campaign of benchmarks/reliability."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import tifffile
from hypothesis import strategies as st
from PIL import Image

from lmsfe_sam.errors import MAX_SENTENCE
from medical_files import save_dicom

PIXELS = (np.arange(24 * 32) % 251).astype(np.uint8).reshape(24, 32)

FORMATS = (
    *("a.png", "a.jpg", "a.bmp", "a.gif", "a.tif", "a.webp"),
    *("deep.tif", "a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.dcm", "IM1"),
)


def is_sentence(text: str) -> bool:
    """Whether a message is one short line for people."""
    return 0 < len(text) <= MAX_SENTENCE and "\n" not in text and "Traceback" not in text


def junk() -> st.SearchStrategy[Any]:
    """Whatever somebody may give for a prompt or an image."""
    number = st.integers(-(10**30), 10**30) | st.floats() | st.complex_numbers(max_magnitude=1e9)
    leaf = st.none() | st.booleans() | number | st.text(max_size=20) | st.binary(max_size=20)
    nested = st.recursive(
        leaf, lambda inner: st.lists(inner, max_size=5) | st.tuples(inner, inner), max_leaves=12
    )
    small = st.integers(-5, 70)
    likely = st.lists(small, min_size=4, max_size=4) | st.lists(
        st.lists(small, min_size=2, max_size=2), max_size=3
    )
    arrays = st.builds(
        lambda shape, kind: np.ones(shape, kind),
        st.lists(st.integers(0, 5), max_size=4).map(tuple),
        st.sampled_from(["u1", "i8", "f4", "c8", "?", "O", "U2"]),
    )
    return nested | likely | arrays | st.dictionaries(st.text(max_size=5), leaf, max_size=3)


def options_junk(schema: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Values for some options of a schema, and for one that it does not have."""
    names = st.sampled_from([*schema.model_fields, "no_option"])
    return st.dictionaries(names, junk(), min_size=1, max_size=4)


def write_seed(path: Path) -> bytes:
    """Write a small valid file of the format that the name says, and return its bytes."""
    if path.name == "deep.tif":
        tifffile.imwrite(
            path, np.dstack([PIXELS.astype(np.uint16)] * 3), photometric="rgb", compression="zlib"
        )
    elif path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(PIXELS.T[..., None], np.diag([0.2, 0.3, 1, 1])), path)
    elif path.suffix in (".nrrd", ".mha"):
        sitk.WriteImage(sitk.GetImageFromArray(PIXELS), str(path), useCompression=True)
    elif path.suffix in (".dcm", ""):
        save_dicom(path, PIXELS)
    else:
        Image.fromarray(PIXELS).save(path)
    return path.read_bytes()


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Change a file in one of many ways: bits, cuts, repetitions, numbers at their limits."""
    if content[:2] == b"\x1f\x8b" and rng.random() < 0.5:
        inner = mutate(gzip.decompress(content), rng)
        packed = io.BytesIO()
        with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as file:
            file.write(inner)
        return packed.getvalue()
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        if not data:
            return bytes(data)
        place = int(rng.integers(0, min(len(data), 400) if rng.random() < 0.7 else len(data)))
        kind = int(rng.integers(0, 7))
        if kind == 0:
            data[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            data[place] = int(rng.choice([0, 1, 127, 128, 254, 255]))
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            del data[place : place + int(rng.integers(1, 20))]
        elif kind == 4:
            data[place:place] = rng.integers(0, 256, int(rng.integers(1, 20)), np.uint8).tobytes()
        elif kind == 5:
            data[place : place + 4] = int(rng.choice([0, 2**31 - 1, 2**31, 2**32 - 1, 65535])).to_bytes(
                4, "little"
            )
        else:
            data[place:place] = data[place : place + 50] * int(rng.integers(1, 4))
    return _mend_png(bytes(data)) if rng.random() < 0.5 else bytes(data)


def _mend_png(content: bytes) -> bytes:
    """Give a PNG's chunks the checksums that they should have, so that what is changed is looked at."""
    if content[:8] != b"\x89PNG\r\n\x1a\n":
        return content
    data, place = bytearray(content), 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = zlib.crc32(data[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(data)
