"""Set up MONAI Label before it starts: its settings, its folders with the bundle in them, and its log.

MONAI Label's own start cannot set uvicorn's limits, logs the names in every request, and
puts temporary files where other users of the machine may wait for them. This takes its place, so it
is held to the version that it was written for.
"""

from __future__ import annotations

import json
import logging
import logging.config
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import atomic_write
from lmsfe_sam.model.weights.checks import sha256

if TYPE_CHECKING:
    from lmsfe_sam.label.app import UltrasoundApp

logger = logging.getLogger(__name__)

MONAI_LABEL = "0.8.5"
SHIM = Path(__file__).with_name("shim")

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".dcm")

ENVIRONMENT = {
    "BUNDLE_DOWNLOAD_SRC": "local",  # never looks for a model zoo
    "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",  # strategies score what they need
    "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps([f"*{suffix}" for suffix in SUFFIXES]),
    "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": '{"Modality": "US"}',
}
"""MONAI Label's settings that differ from its defaults; the user's own come first."""

PRIVATE = ("model", "logs", "sessions")
"""Parts of the app's folder that nobody else may enter; the folder itself may be one that others use, too."""

QUIET = ("monailabel", "pydicom", "nibabel", "PIL", "urllib3", "filelock", "watchdog", "schedule", "timeloop")
"""Loggers that write names of files, or nothing of use."""

MAIN = '''"""Made by python -m lmsfe_sam.label."""

from lmsfe_sam.label.app import UltrasoundApp  # noqa: F401
'''

SOURCE = "models/source.sha256"
"""Says which weights a served bundle was made with."""


def check_version() -> None:
    """Refuse another MONAI Label than the one that is wrapped here.

    Raises:
        InputError: another version is installed, or none.
    """
    if find_spec("monailabel") is None:
        raise InputError("MONAI Label is not installed: run python -m lmsfe_sam.label.install first.")
    found = version("monailabel")
    if found.split("+")[0] != MONAI_LABEL:
        raise InputError(
            f"MONAI Label {found} is installed, and its safeguards here were written for {MONAI_LABEL}: "
            "run python -m lmsfe_sam.label.install."
        )


@contextmanager
def configured_app(app: Path, studies: str, names: list[str], max_pixels: int) -> Iterator[UltrasoundApp]:
    """Set MONAI Label up in an app's folder, and yield its app; remove the temporary files in the end.

    The processes that MONAI Label starts read the same settings from the environment.

    Raises:
        InputError: the studies, or the app's folder, cannot be used.
    """
    for name in PRIVATE:
        (app / name).mkdir(exist_ok=True)
        (app / name).chmod(0o700)
    is_web = studies.startswith(("http://", "https://"))
    conf = {"models": ",".join(names), "max_pixels": str(max_pixels)}
    for key, value in {**ENVIRONMENT, "MONAI_LABEL_SESSION_PATH": str(app / "sessions")}.items():
        os.environ.setdefault(key, value)
    fixed = {
        "MONAI_LABEL_APP_DIR": str(app),
        "MONAI_LABEL_STUDIES": studies if is_web else os.path.realpath(studies),
        "MONAI_LABEL_APP_CONF": json.dumps(conf),
    }
    os.environ.update(fixed)
    if find_spec("pydicom_seg") is None:
        sys.path.append(str(SHIM))
    paths = [path for path in (os.environ.get("PYTHONPATH"), str(SHIM), str(app)) if path]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # for the processes that MONAI Label starts
    os.environ["PYTHONSAFEPATH"] = "1"  # which import nothing from the folder that they are started in
    base = os.environ.get("TMPDIR") or str(app)
    try:
        private = tempfile.mkdtemp(prefix="tmp-", dir=base)  # only this user may enter it
    except OSError as error:
        raise InputError(
            f"'{base}' cannot be written to ({error.strerror}): free space, or set another TMPDIR."
        ) from error
    os.environ["TMPDIR"] = tempfile.tempdir = private
    Image.MAX_IMAGE_PIXELS = max(
        1, max_pixels // 2
    )  # Pillow refuses twice as many: a second check behind ours
    warnings.filterwarnings("ignore")  # pydicom's repeat what is in a file
    try:
        from monailabel.interfaces.utils.app import app_instance  # reads the environment

        instance: UltrasoundApp = app_instance()
        instance.server_mode(True)
        instance.on_init_complete()
        yield instance
    finally:
        shutil.rmtree(private, ignore_errors=True)


def set_log(app: Path, level: str) -> Path:
    """Write a log to the console and to ``logs/app.log``, without names of files; return its path."""
    path = app / "logs" / "app.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    line = "[%(asctime)s] [%(levelname)s] (%(name)s) %(message)s"
    handlers: dict[str, Any] = {
        "console": {"class": "logging.StreamHandler", "formatter": "line"},
        "file": {
            "class": "logging.handlers.RotatingFileHandler",
            "formatter": "line",
            "filename": str(path),
            "maxBytes": 10 * 2**20,
            "backupCount": 5,
            "encoding": "utf-8",
        },
    }
    loggers = {name: {"level": "ERROR"} for name in QUIET}
    loggers |= {f"task_{kind}": {"level": "ERROR"} for kind in ("train", "scoring", "batch_infer")}
    loggers |= {"lmsfe_sam": {"level": level}, "uvicorn": {"level": "INFO"}}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"format": line}},
            "handlers": handlers,
            "root": {"level": "WARNING", "handlers": list(handlers)},
            "loggers": loggers,
        }
    )
    logging.raiseExceptions = False  # a full disk is no reason for a traceback per line
    return path


def prepare_app(app: Path, bundle: Path, names: Sequence[str]) -> None:
    """Write the app's folder; a bundle that is there already keeps the weights trained in it.

    It is made anew once the weights of ``bundle`` have changed; the old one, with what was trained in it,
    is moved to ``before``.

    Raises:
        InputError: ``bundle`` is not a bundle with weights, or a name is not a folder's name.
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
                f"'{name}' is not a folder's name: give names such as lmsfe_sam_deepgrow in --names."
            )
        target = app / "model" / name
        if not _made_of(target, digest):
            _back_up(target, app / "before")
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


def _back_up(target: Path, before: Path) -> None:
    if target.exists():
        before.mkdir(exist_ok=True)
        backup = before / f"{target.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        target.rename(backup)
        logger.warning(
            "The bundle has other weights now: '%s' and what was trained in it is in '%s'.", target, backup
        )


def _made_of(target: Path, digest: str) -> bool:
    source = target / SOURCE
    return source.is_file() and source.read_text(encoding="utf-8").strip() == digest
