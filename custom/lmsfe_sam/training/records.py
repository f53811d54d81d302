"""What a run trains on: a dataset's folder, or phantoms where none is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lmsfe_sam.data.combined import combine
from lmsfe_sam.data.datalist import DataList, build_datalist
from lmsfe_sam.data.phantoms import phantom_records
from lmsfe_sam.settings import folders_of


def find_records(
    dataset_dir: str | Sequence[str] | None,
    layout: str,
    split_rule: str,
    seed: int,
    phantoms: int,
    repeats: Sequence[int] | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
) -> DataList:
    """Return the records of a dataset or of several, split, or those of ``phantoms`` made-up images.

    The validation part of a dataset is the same whatever ``test_fraction`` is.
    Of the phantoms 70 % are for training, 15 % (one at least) each for validation and test.

    Raises:
        InputError: see `build_datalist` and `combine`.
    """
    if dataset_dir is not None:
        found = [
            build_datalist(folder, layout, split_rule, seed, validation_fraction, test_fraction)
            for folder in folders_of(dataset_dir)
        ]
        return found[0] if isinstance(dataset_dir, str) else combine(found, repeats)
    held_out = max(1, round(0.15 * phantoms))
    records = phantom_records(phantoms, seed)
    splits = {
        "train": records[: phantoms - 2 * held_out],
        "val": records[phantoms - 2 * held_out : phantoms - held_out],
        "test": records[phantoms - held_out :],
    }
    return DataList("phantoms", Path("phantoms"), "phantoms", splits, seed=seed, own_split=True)
