"""How long an image takes while another program holds a core, with spinning and sleeping threads.

``python benchmarks/idle_threads.py`` starts a program that keeps a core busy, then the network with a thread
on every core: as torch does by default, with OMP_WAIT_POLICY=PASSIVE, and as this project's commands do.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

CHILD = """
import sys, time, torch
from lmsfe_sam import LMSFESAM
from lmsfe_sam.distributed import let_idle_threads_sleep
if sys.argv[1] == "commands":
    let_idle_threads_sleep()
network, image = LMSFESAM("vit_t").eval(), torch.rand(1, 3, 256, 256)
with torch.no_grad():
    network(image)
    start, count = time.monotonic(), 0
    while time.monotonic() - start < float(sys.argv[2]):
        network(image)
        count += 1
print(f"{1000 * (time.monotonic() - start) / count:.0f}")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Time an image while another program holds a core.")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    plain = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    print("| threads | ms an image, each round |\n| --- | --- |")
    try:
        for name in ("default", "OMP_WAIT_POLICY=PASSIVE", "commands"):
            environment = plain | ({"OMP_WAIT_POLICY": "PASSIVE"} if "PASSIVE" in name else {})
            words = [sys.executable, "-c", CHILD, name, str(options.seconds)]
            times = [
                subprocess.run(
                    words, env=environment, check=True, capture_output=True, text=True
                ).stdout.strip()
                for _ in range(options.rounds)
            ]
            print(f"| {name} | {', '.join(times)} |", flush=True)
    finally:
        busy.kill()


if __name__ == "__main__":
    main()
