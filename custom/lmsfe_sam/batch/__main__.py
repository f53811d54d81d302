"""``python -m lmsfe_sam.batch``: see docs/scale.md."""

from __future__ import annotations

import argparse
import ast
import difflib
import logging
from collections.abc import Sequence
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

from lmsfe_sam.errors import InputError, plain_errors
from lmsfe_sam.options import InferenceOptions
from lmsfe_sam.settings import given_keys

APART = frozenset({"input", "prompts", "output_dir"})
"""Options of inference that have another form here."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a job from the command line."""
    plain_errors()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("lmsfe_sam").setLevel(logging.INFO)
    parser = argparse.ArgumentParser(
        prog="python -m lmsfe_sam.batch",
        description="Segment many images, from a folder, a manifest or a URL.",
        epilog="Every option of inference (docs/options.md) may be given, too, such as --checkpoint.",
    )
    add = parser.add_argument
    add("--input", required=True, help="folder, manifest (.parquet, .csv, .jsonl), image, or a URL of one")
    add("--output", required=True, help="folder of the results, or a URL such as s3://bucket/results")
    add("--prompts", help="prompts file, for images without prompts in the manifest")
    add("--workers", type=int, help="processes, on Ray (default: this process alone, without Ray)")
    add("--threads", type=int, default=1, help="of a worker (default: %(default)s)")
    add(
        "--gpus",
        type=float,
        default=1.0,
        help="of a worker, where there are GPUs; .25: four share one",
    )
    add("--piece", type=int, default=16, help="images given to a worker at a time (default: %(default)s)")
    add("--part", type=int, default=1024, help="images in a file of objects (default: %(default)s)")
    add("--overlays", action="store_true", help="write overlays, too")
    add("--max_failures", type=int, help="end the job when more images fail (default: never)")
    add("--config_file", nargs="+", default=[], help="other files than the bundle's configs/inference.json")
    given, others = parser.parse_known_args(arguments)
    if find_spec("pyarrow") is None:
        raise InputError('batch inference needs pyarrow: run pip install -e ".[batch]".')
    from lmsfe_sam.batch.job import BatchOptions, run_batch

    values = {
        field.name: getattr(given, field.name) for field in fields(BatchOptions) if hasattr(given, field.name)
    }
    run_batch(
        BatchOptions(
            **{**values, "config_files": tuple(given.config_file), "inference": inference_options(others)}
        )
    )


def inference_options(words: Sequence[str]) -> dict[str, Any]:
    """Return the options of inference among the words of a command line.

    Raises:
        InputError: a word that is none; the message names a similar one.
    """
    known = sorted(set(InferenceOptions.model_fields) - APART)
    pairs = given_keys(words)
    for key in pairs:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
            raise InputError(
                f"--{key} is no option: " + (f"did you mean --{near[0]}?" if near else "see --help.")
            )
    stray = [word for word in words[:1] if not word.startswith("--")]
    if stray:
        raise InputError(f"'{stray[0]}' belongs to no option: see --help.")
    return {key: _value(text) for key, text in pairs.items()}


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


if __name__ == "__main__":
    main()
