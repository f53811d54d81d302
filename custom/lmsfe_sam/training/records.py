"""What a run trains on: a dataset's folder, or phantoms where none is given."""

from __future__ import annotations

from pathlib import Path

from lmsfe_sam.data.datalist import DataList, build_datalist
from lmsfe_sam.data.phantoms import phantom_records


def find_records(dataset_dir: str | None, layout: str, split_rule: str, seed: int, phantoms: int) -> DataList:
    """Return the records of a dataset, split, or those of ``phantoms`` made-up images.

    Of the phantoms 70 % are for training, 15 % (one at least) each for validation and test.

    Raises:
        InputError: see `build_datalist`.
    """
    if dataset_dir is not None:
        return build_datalist(dataset_dir, layout=layout, split_rule=split_rule, seed=seed)
    held_out = max(1, round(0.15 * phantoms))
    records = phantom_records(phantoms, seed)
    splits = {
        "train": records[: phantoms - 2 * held_out],
        "val": records[phantoms - 2 * held_out : phantoms - held_out],
        "test": records[phantoms - held_out :],
    }
    return DataList("phantoms", Path("phantoms"), "phantoms", splits, seed=seed, own_split=True)
