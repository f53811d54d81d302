"""What no honest program writes ends in a picture or in one short sentence, and soon."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fuzzing import is_sentence
from hostile_files import HOSTILE
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.reading import read_image
from lmsfe_sam.inference.inputs import find_inputs
from lmsfe_sam.predict.preprocessing import to_rgb_uint8
from lmsfe_sam.prompts.prompts_file import read_prompts

SECONDS = 20
"""That one file may take, of the processor; the slowest takes less than one."""


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    def late(number: int, frame: Any) -> None:
        raise TimeoutError("it takes too long, or waits for a pipe")

    before = signal.signal(signal.SIGALRM, late), signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(6 * SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGALRM, before[0])
        signal.signal(signal.SIGPROF, before[1])


def used() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("name", ["itself.nhdr", "itself.mhd"])
def test_a_header_is_never_read_as_pixels(tmp_path: Path, name: str) -> None:
    HOSTILE[name](tmp_path / name)
    with pytest.raises(InputError, match="names itself as the file of its pixels"):
        read_image(tmp_path / name, 0)


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: name[:20])
def test_a_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    HOSTILE[name](path)
    before = used()
    try:
        to_rgb_uint8(read_image(path, 0).pixels)
    except InputError as error:
        assert is_sentence(str(error)), str(error)
    assert used() - before < 2**28
    try:
        find_inputs(path, frames="all")
        find_inputs(tmp_path)
    except InputError as error:
        assert is_sentence(str(error)), str(error)


DEEP = '{"a.png": {"objects": ' + "[" * 100_000 + "]" * 100_000 + "}}"


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        '{"a.png": {"objects": [{"box": [1, 1, 1' + "0" * 400 + ", 9]}]}}",
        '{"a.png": {"objects": [{"box": [1, 1, 1' + "0" * 5000 + ", 9]}]}}",
        '{"a.png": {"objects": [{"box": [NaN, 1, 5, 9]}]}}',
        '{"a.png": {"objects": [{"points": [[Infinity, 1]]}]}}',
        '{"a.png": {"objects": [{"points": [[1, 1]], "labels": [1e400]}]}}',
        json.dumps({"a.png": {"objects": [{"box": [9, 9, 1, 1]}] * 20_000}}),
        json.dumps({f"{k}.png": {"objects": [{"box": [1, 1, 5, 5]}]} for k in range(20_000)}),
    ],
    ids=["deep", "huge", "too many digits", "nan", "inf", "label", "rows", "names"],
)
def test_a_prompts_file(tmp_path: Path, content: str) -> None:
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "prompts.json").write_text(content)
    with pytest.raises(InputError) as refused:
        find_inputs(tmp_path / "a.png", tmp_path / "prompts.json")
    assert is_sentence(str(refused.value))


@pytest.mark.parametrize("name", [name for name in HOSTILE if name.endswith((".png", "pipe", "loop"))])
def test_a_prompts_file_that_is_none(tmp_path: Path, name: str) -> None:
    HOSTILE[name](tmp_path / name)
    with pytest.raises(InputError) as refused:
        read_prompts(tmp_path / name)
    assert is_sentence(str(refused.value))
