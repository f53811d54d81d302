"""What attacks on the annotation server are made of: requests word for word, and files that lie."""

from __future__ import annotations

import gzip
import io
import json
import re
import socket
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nibabel as nib
import numpy as np
import requests
from PIL import Image

from label_server import Server
from lmsfe_sam.data.phantoms.rendering import render_phantom
from medical_files import save_dicom

SMALL = (64, 80)
"""Rows and columns of the images here."""


def picture(number: int = 0) -> np.ndarray:
    return render_phantom(number, SMALL)[0]


def write_small_studies(folder: Path, count: int = 3) -> Path:
    """Pictures ``us_0.png`` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(picture(number)).save(folder / f"us_{number}.png")
    return folder


def as_png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def as_nifti(shape: tuple[int, ...], **fields: Any) -> bytes:
    """A gzipped NIfTI that states a shape, with a few voxels behind it."""
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header["dim"][: len(shape) + 1] = [len(shape), *shape]
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    for key, value in fields.items():
        header[key] = value
    return gzip.compress(header.binaryblock + bytes(4) + bytes(1000))


def png_that_unfolds(side: int) -> bytes:
    """A picture of ``side`` x ``side`` zeros, a few kilobytes for hundreds of megabytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(side + 1)
    packed = b"".join(packer.compress(row) for _ in range(min(side, 2000))) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@contextmanager
def connected(server: Server, timeout: float = 30) -> Iterator[socket.socket]:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=timeout) as connection:
        yield connection


def raw(server: Server, head: str, body: bytes = b"", timeout: float = 30) -> tuple[int, bytes]:
    """Send a request word for word; return the status, 0 for none, and all that came."""
    with connected(server, timeout) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)
        answer = b""
        try:
            while chunk := connection.recv(65536):
                answer += chunk
        except (ConnectionError, TimeoutError):
            pass
    status = answer.split(b" ", 2)[1] if answer.startswith(b"HTTP/") else b"0"
    return int(status), answer


def sentence(response: requests.Response) -> str:
    """Hold an answer to the form of all refusals: one short sentence, no traceback, no path."""
    detail = response.json()["detail"]
    assert isinstance(detail, str) and 0 < len(detail) <= 300, detail
    own = re.sub(r"'.*'", "", detail)  # without what the client sent itself
    assert "Traceback" not in own and "/tmp/" not in own and own.endswith("."), detail
    return detail


def form(parameters: dict[str, Any]) -> dict[str, str]:
    return {"params": json.dumps(parameters)}


def memory(server: Server) -> float:
    """The most that the server has used so far, in MB."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmHWM")


def archive_of(kind: str, name: str, data: bytes) -> bytes:
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, data)
    else:
        with tarfile.open(fileobj=stream, mode=kind) as archive:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def nrrd(*fields: str, data: bytes = bytes(80 * 64)) -> bytes:
    head = [
        "NRRD0004",
        "type: uchar",
        "dimension: 2",
        "sizes: 80 64",
        "encoding: raw",
        "endian: little",
        *fields,
    ]
    return "\n".join(head).encode() + b"\n\n" + data


def mha(*fields: str, place: str = "LOCAL", size: str = "80 64") -> bytes:
    head = ["ObjectType = Image", "NDims = 2", f"DimSize = {size}", "ElementType = MET_UCHAR", *fields]
    return "\n".join([*head, f"ElementDataFile = {place}"]).encode() + b"\n" + bytes(80 * 64)


def tiff_pages() -> bytes:
    """A small page, then a large one."""
    stream = io.BytesIO()
    pages = [Image.new("1", (8, 8)), Image.new("1", (30_000, 30_000))]
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:], compression="group4")
    return stream.getvalue()


def gif(side: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "GIF")
    size = side.to_bytes(2, "little") * 2
    return stream.getvalue()[:6] + size + stream.getvalue()[10:]


def dicom(folder: Path, **fields: Any) -> bytes:
    save_dicom(folder / "x.dcm", render_phantom(0, (64, 80))[0], **fields)
    return (folder / "x.dcm").read_bytes()


ELSEWHERE = {
    "x.nhdr": nrrd("data file: /etc/passwd"),
    "x.mhd": mha(place="/etc/passwd"),
    "x.nrrd": nrrd("data file: /etc/passwd"),
    "y.nrrd": nrrd("datafile: /etc/passwd"),
    "z.nrrd": nrrd("Data File: LIST", "/etc/passwd"),
    "w.NRRD": nrrd("data file: /etc/passwd"),
    "x.mha": mha(place="/etc/passwd"),
    "y.mha": mha("ElementDataFile = /etc/passwd"),
    "z.mha": mha("Comment = ElementDataFile = LOCAL", place="/etc/passwd"),
    "w.mha": mha(place="LIST"),
    "v.mha": mha(place="/etc/pass%1d 1 1 1"),
    "x.nii": bytes(as_nifti((80, 64), magic=b"ni1")),
    "x.nii.gz": as_nifti((80, 64), magic=b"ni1"),
}


NAMES = [
    "../../../escaped",
    "..",
    ".",
    ".hidden",
    "/tmp/escaped",
    "a/b",
    "a\\b",
    "..\\..\\escaped",
    "a\x00b",
    "a\nb",
    "\u202egnp.exe",
    "x" * 300,
    "C:escaped",
    "~root",
    "a ",
    "%2e%2e%2fescaped",
    "....//escaped",
]


def everything(server: Server) -> set[Path]:
    """All files but the log, locks, and what is put away in between."""
    root = server.studies.parent
    left_out = (".lock", ".log", ".bak", ".part")
    return {
        path
        for path in root.rglob("*")
        if not path.name.endswith(left_out)
        and not path.name.startswith(".")  # being written, for a moment
        and not {"tmp", "sessions"} & {part[:8].split("-")[0] for part in path.parts[-3:]}
    }
