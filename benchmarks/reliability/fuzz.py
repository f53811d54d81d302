"""Mutated files and junk arguments: each ends in a result or in one short sentence."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import numpy as np
from trials import run_trials

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from boxnet import BoxNetwork
from fuzzing import FORMATS, is_sentence, mutate, write_seed
from lmsfe_sam import Predictor
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.reading import read_image
from lmsfe_sam.options import SECTIONS, check_options
from lmsfe_sam.predict.preprocessing import to_rgb_uint8


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=15000)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial; each has the next one")
    parser.add_argument("--state", type=Path)
    options = parser.parse_args()
    predictor = Predictor(BoxNetwork())
    predictor.set_image(np.zeros((48, 64), np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        seeds = {name: write_seed(Path(folder) / name) for name in FORMATS}

        def trial(count: int) -> str:
            number = options.seed + count
            rng = np.random.default_rng(number)
            kind = number % (len(FORMATS) + 2)
            try:
                if kind < len(FORMATS):
                    path = Path(folder) / FORMATS[kind]
                    path.write_bytes(mutate(seeds[FORMATS[kind]], rng))
                    to_rgb_uint8(read_image(path, 0).pixels)
                elif kind == len(FORMATS):
                    predictor.predict(*(junk(random.Random(number * 5 + k)) for k in range(5)))
                else:
                    schema = SECTIONS[list(SECTIONS)[number % len(SECTIONS)]][0]
                    values = random.Random(number)
                    names = values.sample([*schema.model_fields], 3)
                    check_options(schema, {name: junk(values) for name in names})
            except InputError as error:
                return "" if is_sentence(str(error)) else f"no sentence: {str(error)[:200]}"
            except BaseException:
                return traceback.format_exc()[-500:]
            return ""

        run_trials(options.trials, options.state, trial, "fuzz")


def junk(rng: random.Random, depth: int = 0) -> Any:
    """Return anything."""
    kinds = 12 if depth < 4 else 9
    match rng.randrange(kinds):
        case 0:
            return None
        case 1:
            return rng.choice([True, False])
        case 2:
            return rng.choice([0, 1, -1, 2**31, 10**30, 10**400, rng.randrange(-99, 99)])
        case 3:
            return rng.choice([0.5, float("nan"), float("inf"), -1e308, rng.uniform(-99, 99)])
        case 4:
            return rng.choice(["", "1", "x" * 10**5, "\n", "\x00", "ß"])
        case 5:
            return complex(rng.random(), 1)
        case 6:
            return np.ones(
                [rng.randrange(4) for _ in range(rng.randrange(5))], rng.choice(["u1", "f4", "c8", "O"])
            )
        case 7:
            return [rng.randrange(70) for _ in range(4)]
        case 8:
            return [[rng.randrange(70), rng.randrange(50)] for _ in range(rng.randrange(4))]
        case 9:
            return [junk(rng, depth + 1) for _ in range(rng.randrange(5))]
        case 10:
            return tuple(junk(rng, depth + 1) for _ in range(rng.randrange(3)))
        case _:
            return {str(k): junk(rng, depth + 1) for k in range(rng.randrange(3))}


if __name__ == "__main__":
    main()
