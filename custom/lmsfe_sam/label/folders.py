"""The app's folder of a MONAI Label server: ``main.py``, and the bundle under each of its names."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import atomic_write
from lmsfe_sam.model.weight_files import sha256

logger = logging.getLogger(__name__)

MAIN = '''"""Made by python -m lmsfe_sam.label."""

from lmsfe_sam.label.app import UltrasoundApp  # noqa: F401
'''

SOURCE = "models/source.sha256"
"""Says which weights a served bundle was made with."""


def prepare_app(app: Path, bundle: Path, names: Sequence[str]) -> None:
    """Write the app's folder; a bundle that is there already keeps the weights trained in it.

    It is made anew once the weights of ``bundle`` have changed; the old one, with what was trained in it,
    is moved to ``before``.

    Raises:
        InputError: ``bundle`` is no bundle with weights, or a name is no folder's name.
    """
    weights = bundle / "models" / "model.pt"
    if not weights.is_file():
        raise InputError(f"bundle '{bundle}' has no models/model.pt: name the bundle's folder with --bundle.")
    app.mkdir(parents=True, exist_ok=True)
    with atomic_write(app / "main.py") as temporary:
        temporary.write_text(MAIN, encoding="utf-8")
    digest = sha256(weights)
    for name in names:
        if not name or Path(name).name != name or name in (".", ".."):
            raise InputError(
                f"'{name}' is no folder's name: give names such as lmsfe_sam_deepgrow in --names."
            )
        target = app / "model" / name
        if not _made_of(target, digest):
            _put_aside(target, app / "before")
            try:
                write_bundle(bundle, target)
            except OSError as error:  # a half one lacks SOURCE, and is made anew at the next start
                raise InputError(
                    f"app '{app}' cannot be written to: free some space, or name another folder with --app."
                ) from error
            with atomic_write(target / SOURCE) as temporary:
                temporary.write_text(digest + "\n", encoding="utf-8")


def write_bundle(bundle: Path, target: Path) -> None:
    """Copy what a served bundle needs."""
    for part in ("configs", "models"):
        shutil.copytree(bundle / part, target / part)


def _put_aside(target: Path, before: Path) -> None:
    if target.exists():
        before.mkdir(exist_ok=True)
        place = before / f"{target.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        target.rename(place)
        logger.warning(
            "The bundle has other weights now: '%s' and what was trained in it is in '%s'.", target, place
        )


def _made_of(target: Path, digest: str) -> bool:
    source = target / SOURCE
    return source.is_file() and source.read_text(encoding="utf-8").strip() == digest
