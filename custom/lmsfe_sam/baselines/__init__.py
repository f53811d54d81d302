"""Networks by other authors, for comparison: `build` makes one by name.

Each has a file of its own, which is imported only when its network is built, so that MONAI, timm and
scikit-image are needed only where they are used. ``docs/baselines.md`` says where each comes from.
"""

from lmsfe_sam.baselines.registry import BASELINES, build, build_promptable, names

__all__ = ["BASELINES", "build", "build_promptable", "names"]
