"""Sentences: short whatever they echo, and made of whatever a user may give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsfe_sam.errors import MAX_DETAILS, MAX_SENTENCE, InputError, find_input_error, short_repr


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@given(st.text(max_size=3000))
def test_a_sentence_is_one_short_line(text: str) -> None:
    message = str(InputError(f"input '{text}' is none: give another."))
    assert len(message) <= MAX_SENTENCE and message.isprintable()
    assert message.endswith("is none: give another.")


def test_five_million_characters_lose_their_middle() -> None:
    message = str(InputError(f"input '{'x' * 5_000_000}' does not exist: give an image file."))
    assert len(message) == MAX_SENTENCE
    assert message.startswith("input 'xxx") and message.endswith("xxx' does not exist: give an image file.")


def test_details_have_a_line_each_and_an_end() -> None:
    error = InputError("three are bad:", ["first\nof all", "y" * 1000])
    assert [len(line) for line in str(error).splitlines()] == [14, 12, MAX_SENTENCE]
    lines = str(InputError("many:", ["bad"] * 1000)).splitlines()
    assert len(lines) == MAX_DETAILS + 2 and lines[-1] == f"and {1000 - MAX_DETAILS} more."


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "value",
    [nested(10**4), 10**5000, -(10**5000), "a" * 10**6, b"a" * 10**6, list(range(10**6)),
     np.zeros((999, 999)), {k: nested(500) for k in range(99)}, Unprintable(), {"a": Unprintable()},
     [[["deep", ["er", ["still"]]]]], float("nan"), 1j, None, "\x00\n", object()],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_whatever_is_given_can_be_shown(value: Any) -> None:
    assert 0 < len(short_repr(value)) <= 200


@pytest.mark.parametrize("value", [7, 0.5, "name", [1, 2], {"a": 1}, None, True, [[1, 2], [3, 4]]])
def test_what_is_short_is_shown_as_python_writes_it(value: Any) -> None:
    assert short_repr(value) == repr(value)


@pytest.mark.parametrize(
    "message",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers "
        "are out of shared memory. Please try to raise your shared memory limit.",
        "unable to open shared memory object </torch_7_8_9> in read-write mode: No space left on device (28)",
        "unable to allocate shared memory(shm) for file </torch_7>: No space left on device (28)",
        "unable to resize file </torch_7> to the right size: No space left on device (28)",
    ],
)
def test_a_full_dev_shm_is_a_sentence(message: str) -> None:
    error = find_input_error(RuntimeError(message))
    assert error is not None and "/dev/shm is too small" in str(error) and "--num_workers 0" in str(error)


def test_other_errors_stay_what_they_are() -> None:
    for error in (RuntimeError("shape mismatch"), OSError(28, "No space left on device"), KeyError("open")):
        assert find_input_error(error) is None
