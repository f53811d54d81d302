"""Write a folder of phantoms, to try the commands for real data with::

python -m lmsfe_sam.data.phantoms --output phantoms --count 200 --seed 0
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from lmsfe_sam.data.phantoms.rendering import phantom_records, render_record
from lmsfe_sam.errors import plain_errors
from lmsfe_sam.files import atomic_write, ensure_folder


def main(arguments: list[str] | None = None) -> None:
    """Write phantoms as a dataset folder of ``images/`` and ``masks/``."""
    parser = argparse.ArgumentParser(prog="python -m lmsfe_sam.data.phantoms", description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the folder to write")
    parser.add_argument("--count", type=int, default=100, help="how many phantoms (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="which phantoms (default 0)")
    options = parser.parse_args(arguments)
    records = phantom_records(options.count, options.seed)
    folder = ensure_folder(options.output, "output")
    for record in records:
        image, mask = render_record(record)
        for kind, picture in (("images", image), ("masks", 255 * mask)):
            with atomic_write(folder / kind / f"{record['name']}.png") as temporary:
                Image.fromarray(picture).save(temporary)
    print(f"{len(records)} phantoms written: use them with --dataset_dir {folder.resolve()}")


if __name__ == "__main__":
    plain_errors()
    main()
