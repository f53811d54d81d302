"""Install MONAI Label beside this package: ``python -m lmsfe_sam.label.install``.

Plain ``pip install monailabel`` fails, as MONAI Label 0.8.5 pins NumPy below 2 through pydicom-seg. So
it is installed without its dependencies, then those that it needs here. ``pip check`` names four that
are left out; nothing of what this bundle does needs them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MONAI_LABEL = "monailabel==0.8.5"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def main() -> int:
    """Run pip twice, in the environment of this interpreter; return its exit code."""
    for what in (["--no-deps", MONAI_LABEL], ["--requirement", str(REQUIREMENTS)]):
        code = subprocess.run([sys.executable, "-m", "pip", "install", *what], check=False).returncode
        if code:
            print(f"error: pip could not install {what[-1]}: see its message above.", file=sys.stderr)
            return code
    print(
        f"{MONAI_LABEL} is installed. pip says that it lacks pydicom-seg, sam2, numpymaxflow and ninja: "
        "this bundle does without them. Start it with python -m lmsfe_sam.label --studies FOLDER."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
