"""Write a folder of phantoms, to try the commands for real data with, or to train on beside it::

python -m lmsfe_sam.data.phantoms --output phantoms --count 200 --seed 0
python -m lmsfe_sam.data.phantoms --output structures --count 500 --kind structures
"""

from __future__ import annotations

import argparse

from PIL import Image

from lmsfe_sam.data.phantoms.rendering import phantom_records, render_phantom, render_structures
from lmsfe_sam.errors import plain_errors
from lmsfe_sam.files import atomic_write, ensure_folder, named_path, remove_leftovers_of

RENDERERS = {"lesions": (render_phantom, 255), "structures": (render_structures, 1)}
"""For each kind how it is rendered, and the value in its files of what is 1 in its masks."""


def main(arguments: list[str] | None = None) -> None:
    """Write phantoms as a dataset folder of ``images/`` and ``masks/``."""
    parser = argparse.ArgumentParser(prog="python -m lmsfe_sam.data.phantoms", description=main.__doc__)
    parser.add_argument("--output", type=named_path, required=True, help="the folder to write")
    parser.add_argument("--count", type=int, default=100, help="how many phantoms (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="which phantoms (default 0)")
    parser.add_argument(
        "--kind",
        choices=RENDERERS,
        default="lesions",
        help="lesions, black and white masks (default), or several structures an image, label maps",
    )
    options = parser.parse_args(arguments)
    records = phantom_records(options.count, options.seed)
    folder = ensure_folder(options.output, "output")
    render, factor = RENDERERS[options.kind]
    files = {
        record["phantom"]: [folder / kind / f"{record['name']}.png" for kind in ("images", "masks")]
        for record in records
    }
    remove_leftovers_of(*(file for own in files.values() for file in own))
    for phantom, own in files.items():
        image, mask = render(phantom)
        for file, picture in zip(own, (image, factor * mask), strict=True):
            with atomic_write(file) as temporary:
                Image.fromarray(picture).save(temporary)
    labels = "" if options.kind == "lesions" else " --objects labels"
    print(f"{len(records)} phantoms written: use them with --dataset_dir {folder.resolve()}{labels}")


if __name__ == "__main__":
    plain_errors()
    main()
