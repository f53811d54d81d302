"""LMSFE-SAM: promptable ultrasound segmentation.

Importing the package loads torch and segment_anything but not MONAI; the bundle's components in
``data``, ``training``, ``evaluation`` and ``inference`` import it where they need it.
"""

from lmsfe_sam.errors import plain_command

plain_command()  # before the imports that take seconds

from lmsfe_sam.version import __version__  # noqa: E402

try:
    from lmsfe_sam.model.network import LMSFESAM, ImageEmbedding
    from lmsfe_sam.predict.predictor import Predictor
except ImportError as error:
    from lmsfe_sam.selftest.installation import explain

    raise explain(error) from error

__all__ = ["LMSFESAM", "ImageEmbedding", "Predictor", "__version__"]
