"""What a DICOM file says of its pixels, held against limits before a frame is decoded."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread
from pydicom.encaps import generate_frames
from pydicom.filereader import read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from lmsfe_sam.errors import InputError
from lmsfe_sam.label.faults import TooLargeError

UNSCANNED = 2**22
"""Bytes of a run-length encoded frame that may unfold as they like: to at most 64 times as many."""


def check_dicom(file: Path, most: int) -> None:
    """Refuse a DICOM file with frames of too many pixels, or one whose compression hides how many.

    Args:
        file: the file.
        most: pixels of a frame.

    Raises:
        InputError: it is one of these.
    """
    syntax = read_file_meta_info(file).get("TransferSyntaxUID", "")
    if syntax == DeflatedExplicitVRLittleEndian:  # pydicom would inflate the whole file at once
        raise InputError(f"'{file}' is deflated DICOM, which is not accepted: save it uncompressed.")
    dataset = dcmread(file, stop_before_pixels=True)
    rows, columns = (int(dataset.get(key) or 0) for key in ("Rows", "Columns"))
    samples, bits = (
        int(dataset.get(key) or low) for key, low in (("SamplesPerPixel", 1), ("BitsAllocated", 8))
    )
    frames = int(dataset.get("NumberOfFrames") or 1)
    if rows * columns <= 0 or samples not in (1, 3, 4) or not 1 <= bits <= 64 or frames < 1:
        raise InputError(f"'{file}' has no pixels that can be shown: copy it again from its source.")
    if rows * columns > most:
        raise TooLargeError(
            f"'{file}' has {rows * columns} pixels, more than {most}: make it smaller, or start the server "
            "with a higher --max_pixels."
        )
    if syntax == RLELossless:
        _check_runs(file, frames, rows * columns)


def _check_runs(file: Path, frames: int, pixels: int) -> None:
    """pydicom unfolds a segment of runs before it looks at how long that has become."""
    data = dcmread(file).PixelData
    for frame in generate_frames(data, number_of_frames=frames):
        if len(frame) <= UNSCANNED:
            continue
        count = int.from_bytes(frame[:4], "little")
        places = [int.from_bytes(frame[4 * k : 4 * k + 4], "little") for k in range(1, min(count, 15) + 1)]
        for start, end in zip(places, [*places[1:], len(frame)]):
            if not unfolds_to_at_most(frame[start:end], pixels + 2):
                raise InputError(f"'{file}' holds more pixels than it states: copy it again from its source.")


def unfolds_to_at_most(segment: bytes, most: int) -> bool:
    """Whether a segment of DICOM's run lengths decodes to at most ``most`` bytes; nothing is decoded."""
    place, length = 0, 0
    while place < len(segment) and length <= most:
        code = segment[place]
        if code < 128:
            place, length = place + code + 2, length + code + 1
        else:
            place, length = place + 2, length + (257 - code if code > 128 else 0)
    return length <= most
