"""Write the bundle as one folder, with this package inside: for the model zoo, Hugging Face or a colleague.

The command needs no installation: ``python custom/lmsfe_sam/package.py --output DIR`` does the same as
``python -m lmsfe_sam.package --output DIR``, from any folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

if not __package__:  # Run as a file: Python puts this folder on the module path instead of its parent.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    for module in ("torch", "torchvision", "segment_anything"):
        if find_spec(module) is None:
            sys.exit(
                f"error: this Python has no module {module}, which the network is made with: install it."
            )

from lmsfe_sam.errors import plain_errors
from lmsfe_sam.files import named_path
from lmsfe_sam.zoo.folder import Options, write_bundle


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: write the folder and print its path and size."""
    plain_errors()
    parser = argparse.ArgumentParser(
        prog="python -m lmsfe_sam.package", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument(
        "--output", required=True, type=named_path, help="the folder to write; it must be new or empty"
    )
    parser.add_argument("--bundle", type=named_path, help="the bundle to package (default: the clone's own)")
    parser.add_argument(
        "--checkpoint",
        type=named_path,
        help="other weights, a NAME.pt with NAME.json beside it if there is one",
    )
    parser.add_argument("--model_url", help="the address of weights that are too large for the zoo")
    parser.add_argument(
        "--any_size", action="store_true", help="keep files that are too large for the zoo in the folder"
    )
    folder = write_bundle(Options(**vars(parser.parse_args(arguments))))
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    print(f"{folder}: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB, the largest {max(sizes) / 1e6:.1f} MB.")


if __name__ == "__main__":
    main()
