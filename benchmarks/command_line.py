"""Inference by the command line on one 500 x 500 picture with a box, beside importing what it imports.

The imports are those of the very modules that the command has loaded when it ends, in a fresh process; what
is left is the work: reading the config, the weights and the picture, the network, the mask and the overlay.

Run from the root of the repository: ``python benchmarks/command_line.py``.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from lmsfe_sam.data.phantoms.rendering import render_phantom
from lmsfe_sam.prompts.simulate import tight_box
from timing import Samples, arguments, print_times

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"

LISTED = """
import atexit, json, runpy, sys
atexit.register(lambda: json.dump([name for name in sys.modules if name != "__main__"], open({place!r}, "w")))
sys.argv = {words!r}
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""

IMPORT_ALL = """
import importlib, json
for name in json.load(open({place!r})):
    try:
        importlib.import_module(name)
    except Exception:  # made by a parent module, or not for importing by itself
        pass
"""


def main() -> None:
    options = arguments("Time inference by the command line.", repeats=5)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        words = command(Path(folder))
        place = f"{folder}/modules.json"
        run("-c", LISTED.format(place=place, words=words))
        samples = {"imports alone": Samples(), "the command": Samples()}
        for _ in range(options.repeats):
            measure(samples["imports alone"], "-c", IMPORT_ALL.format(place=place))
            measure(samples["the command"], "-m", *words)
        print_times("One 500 x 500 picture, one box", samples)
        print(f"imports: {len(json.loads(Path(place).read_text()))} modules")
    beyond = [a - b for a, b in zip(samples["the command"].cpu, samples["imports alone"].cpu, strict=True)]
    walls = [a - b for a, b in zip(samples["the command"].wall, samples["imports alone"].wall, strict=True)]
    for name, values in (("processor", sorted(beyond)), ("wall clock", sorted(walls))):
        middle = values[len(values) // 2]
        print(f"beyond the imports, {name}: median {middle:.2f} s ({values[0]:.2f} to {values[-1]:.2f})")


def command(folder: Path) -> list[str]:
    """Write a phantom and its box; return the words of the command line that segments it."""
    picture, mask = render_phantom(12, (500, 500))
    Image.fromarray(picture).save(folder / "phantom.png")
    prompts = {"phantom.png": {"objects": [{"box": [float(side) for side in tight_box(mask > 0)]}]}}
    (folder / "prompts.json").write_text(json.dumps(prompts))
    return [
        *("monai.bundle", "run", "--config_file", str(BUNDLE / "configs" / "inference.json")),
        *("--bundle_root", str(BUNDLE), "--input", str(folder / "phantom.png")),
        *("--prompts", str(folder / "prompts.json"), "--output_dir", str(folder / "out")),
    ]


def measure(sample: Samples, *words: str) -> None:
    """Add the seconds of a child process."""
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run(*words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    sample.wall.append(time.perf_counter() - wall)
    sample.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def run(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True, capture_output=True)


if __name__ == "__main__":
    main()
