"""What it costs to import the network and the predictor, beside segment_anything, each in a fresh process.

Run from the root of the repository: ``python benchmarks/startup.py``. MONAI is timed for comparison:
the network and the predictor do without it.
"""

from __future__ import annotations

import subprocess
import sys

from timing import Samples, arguments, print_target, print_times

IMPORTS = {
    "segment_anything": "import segment_anything",
    "lmsfe_sam": "from lmsfe_sam import LMSFESAM, Predictor",
    "torch": "import torch",
    "monai": "import monai",
}

PROGRAM = """
import time
wall, cpu = time.perf_counter(), time.process_time()
{statement}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def main() -> None:
    options = arguments("Time the imports.", repeats=7)
    samples = {name: Samples() for name in IMPORTS}
    for turn in range(1 + options.repeats):  # the first brings the files into the system's cache
        for name, statement in IMPORTS.items():
            program = PROGRAM.format(statement=statement)
            out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
            wall, cpu = (float(word) for word in out.stdout.split()[-2:])
            if turn:
                samples[name].wall.append(wall)
                samples[name].cpu.append(cpu)
    print_times("Import in a fresh process", samples)
    print_target("lmsfe_sam / segment_anything", samples, "lmsfe_sam", "segment_anything", 1.3)


if __name__ == "__main__":
    main()
