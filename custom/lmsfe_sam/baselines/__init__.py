"""Networks of other authors, to compare with: `build` makes one by name.

Each lies in a file of its own, which is imported when its network is asked for, so that MONAI, timm and
scikit-image are needed only by what uses them. ``docs/baselines.md`` says where each comes from.
"""

from lmsfe_sam.baselines.registry import BASELINES, build, build_promptable, names

__all__ = ["BASELINES", "build", "build_promptable", "names"]
