"""Files that lie, unfold or are none, sent wherever the annotation server takes a file."""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from bombs import BOMBS
from hostile_files import HOSTILE
from label.sending import Request, request
from label_attacks import archive_of, as_nifti, as_png, mha, nrrd, picture
from label_server import INTERACTIVE


def uploads() -> dict[str, bytes]:
    """Files that lie, unfold, or are none, by the names that they are sent under."""
    found: dict[str, bytes] = {
        "text.pdf": b"%PDF-1.7",
        "many.zip": archive_of("zip", "a.png", bytes(10**6)),
        "x.png.zip": archive_of("zip", "../../a.png", b"x"),
        "": b"",
        "nothing.png": b"",
        "nul\x00.png": as_png(picture(0))[:100],
        "strip.tif": lying_tiff(),
        "huge.webp": lying_webp(),
        "huge.bmp": lying_bmp(),
        "pages.tif": many_pages(),
        "frames.gif": many_frames(),
        "block.nrrd": nrrd("block size: 99999999"),
        "skip.nrrd": nrrd("byte skip: -1", data=b""),
        "gz.nrrd": nrrd().replace(b"raw", b"gzip"),
        "ndims.mha": mha("NDims = 99999999"),
        "packed.mha": mha("CompressedData = True", "CompressedDataSize = 5"),
        "volume.nii.gz": as_nifti((30000, 30000)),
        "dims.nii.gz": as_nifti((80, 64, 1, 1, 1, 1, 1)),
        "nan.nii.gz": as_nifti((80, 64), scl_slope=np.nan, scl_inter=np.inf),
        "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9999 9999\nshowpage\n",
    }
    with tempfile.TemporaryDirectory() as name:
        for kind, write in {**BOMBS, **HOSTILE}.items():
            path = Path(name) / kind
            if len(kind) < 100 and not kind.startswith(
                ("pipe", "loop", "folder", "endless", "socket", "frames.dcm")
            ):
                write(path)
                found[kind] = path.read_bytes()
    return {name: content for name, content in found.items() if len(content) < 2**23}


READ_BY_ALL = (
    "spacing.mha",
    "dims.nii.gz",
    "steps.nii",
    "slope.nii",
    "nan.nii.gz",
    "text.png",
    "profile.png",
    "long_text.png",
)
READ_BY_ALL += (
    "itself.tif",
    "circle.tif",
    "deep_itself.tif",
    "deep_circle.tif",
    "long_circle.tif",
    "regions.dcm",
)
READ_BY_ALL += (
    "frames.gif",
    "block.nrrd",
    "deep.dcm",
    "deeper.dcm",
    "pages.tif",
    "packed.mha",
    "twice.nii.gz",
    "nan.nii",
)
"""Odd, but read: a result is right, too."""


def upload_requests() -> Iterator[Request]:
    """Each of the files where files are sent."""
    for name, content in uploads().items():
        for method, path, field in (
            ("POST", f"/infer/{INTERACTIVE}?output=json", "file"),
            ("PUT", "/datastore/image?image=sent", "file"),
            ("PUT", "/datastore/label?image=us_0&tag=sent", "label"),
            ("PUT", "/session/", "files"),
        ):
            yield request(
                f"file {name!r}", method, path, may_work=name in READ_BY_ALL, files={field: (name, content)}
            )
    good = as_png(picture(0))
    for name in (
        "../x",
        "a/b",
        "..",
        "CON.",
        "a\u202eb",
        "\U0001f4a3" * 60,
        "x" * 201,
        "a|b",
        "%00",
        "a\tb",
        "~a",
        ".a",
    ):
        yield request(
            f"named {name[:20]!r}",
            "PUT",
            "/datastore/image",
            params={"image": name},
            files={"file": ("x.png", good)},
        )
        yield request(
            f"tag {name[:20]!r}",
            "PUT",
            "/datastore/label?image=us_0",
            params={"tag": name},
            files={"label": ("x.png", good)},
        )
    for info in (
        '{"a": "\\ud800"}',
        '{"\\ud800": 1}',
        '{"a": NaN}',
        "[]",
        "{" * 9,
        '{"a":' * 900 + "1" + "}" * 900,
    ):
        may = info.startswith('{"a": "')
        yield request(
            f"info {info[:20]}", "PUT", "/datastore/image/info?image=us_1", may_work=may, data={"info": info}
        )
        yield request(
            f"params {info[:20]}",
            "PUT",
            "/datastore/image?image=with_info",
            may_work=may,
            data={"params": info},
            files={"file": ("x.png", good)},
        )
    yield request("read back", "GET", "/datastore/image/info?image=us_1", may_work=True)
    yield request("read back", "GET", "/datastore/?output=all", may_work=True)
    for digest in ("SHA256:", "CRC:1", "SHA256:\u00e9", "x" * 9999, "MD5:" + "0" * 32, ":", "::"):
        yield request(
            "checksum",
            "HEAD",
            "/datastore/image",
            params={"image": "us_0", "check_sum": digest},
            may_work=True,
        )


def lying_tiff() -> bytes:
    """A picture whose one strip is said to be far larger than the file."""
    stream = io.BytesIO()
    Image.fromarray(picture(0)).save(stream, "TIFF")
    content = bytearray(stream.getvalue())
    place = struct.unpack_from("<I", content, 4)[0]
    for entry in range(struct.unpack_from("<H", content, place)[0]):
        tag, _ = struct.unpack_from("<HH", content, place + 2 + 12 * entry)
        if tag in (256, 257, 278, 279):
            struct.pack_into("<HHII", content, place + 2 + 12 * entry, tag, 4, 1, 2**31 - 9)
    return bytes(content)


def lying_webp() -> bytes:
    """An extended WebP whose canvas has 2**28 pixels."""
    side = (16383).to_bytes(3, "little")
    chunk = (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes([0, 0, 0, 0])
        + side
        + side
        + b"VP8L"
        + struct.pack("<I", 5)
        + b"/\xff\xff\xff\xff\x00"
    )
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def lying_bmp() -> bytes:
    """A run-length encoded BMP that claims 2**31 columns."""
    head = struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 2**15, 1, 8, 1, 9, 1, 1, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1100, 0, 0, 1078) + head + bytes(1024) + b"\xff\x00\x00\x01"


def many_pages() -> bytes:
    """A TIFF of 12 pages of 8000 x 8000 bits."""
    stream = io.BytesIO()
    pages = [Image.new("1", (8000, 8000)) for _ in range(12)]
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:], compression="group4")
    return stream.getvalue()


def many_frames() -> bytes:
    """A GIF of 300 frames."""
    stream = io.BytesIO()
    frames = [Image.new("L", (64, 64), number) for number in range(256)]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()
