"""Whatever is given ends in a result or in one short sentence: prompts, options, predictor, mutated files.

`benchmarks/reliability` does the same for as long as it is asked to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boxnet import BoxNetwork
from fuzzing import FORMATS, is_sentence, junk, mutate, options_junk, write_seed
from lmsfe_sam import Predictor
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.reading import read_image
from lmsfe_sam.options import SECTIONS, check_options
from lmsfe_sam.predict.preprocessing import to_rgb_uint8
from lmsfe_sam.prompts.prompt import ObjectPrompt
from lmsfe_sam.prompts.prompts_file import read_prompts

FEW = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def ends_well(call: Any, *arguments: Any) -> None:
    try:
        call(*arguments)
    except InputError as error:
        assert is_sentence(str(error)), str(error)[:600]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    made = Predictor(BoxNetwork())
    made.set_image(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64))
    return made


@FEW
@given(junk(), junk(), junk())
def test_prompts(box: Any, points: Any, labels: Any) -> None:
    ends_well(ObjectPrompt, box, points, labels)


@FEW
@given(junk(), junk(), junk(), junk(), junk())
def test_the_predictor(
    predictor: Predictor, box: Any, points: Any, labels: Any, mask: Any, multimask: Any
) -> None:
    ends_well(predictor.predict, box, points, labels, mask, multimask)
    ends_well(predictor.predict, [1, 1, 9, 9], None, None, mask, multimask)


@FEW
@given(junk())
def test_images(predictor: Predictor, image: Any) -> None:
    ends_well(to_rgb_uint8, image)


@pytest.mark.parametrize("section", SECTIONS)
@FEW
@given(st.data())
def test_options(section: str, data: st.DataObject) -> None:
    schema = SECTIONS[section][0]
    ends_well(check_options, schema, data.draw(options_junk(schema)))


@FEW
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_prompts_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "prompts.json").write_bytes(content)
    ends_well(read_prompts, tmp_path / "prompts.json")


@pytest.mark.parametrize("name", FORMATS)
def test_mutated_files(tmp_path: Path, name: str) -> None:
    seed = write_seed(tmp_path / name)
    rng = np.random.default_rng(0)
    for _ in range(12):
        (tmp_path / name).write_bytes(mutate(seed, rng))
        ends_well(lambda: to_rgb_uint8(read_image(tmp_path / name, 0).pixels))
