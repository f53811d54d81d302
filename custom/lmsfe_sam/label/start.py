"""Starting MONAI Label: its settings, its folders and its log, and uvicorn with limits.

MONAI Label's own start cannot be told of uvicorn's limits, writes every request's names into its log, and
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
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from lmsfe_sam.errors import InputError

if TYPE_CHECKING:
    from lmsfe_sam.label.app import UltrasoundApp
    from lmsfe_sam.label.guard import App

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

CONNECTIONS = 500
"""Open at once; the ones above get status 503."""

QUIET = ("monailabel", "pydicom", "nibabel", "PIL", "urllib3", "filelock", "watchdog", "schedule", "timeloop")
"""Loggers that tell names of files, or nothing that anybody asked for."""


def check_version() -> None:
    """Refuse another MONAI Label than the one that is wrapped here.

    Raises:
        InputError: it is another, or there is none.
    """
    if find_spec("monailabel") is None:
        raise InputError("MONAI Label is not installed: run python -m lmsfe_sam.label.install first.")
    found = version("monailabel")
    if found.split("+")[0] != MONAI_LABEL:
        raise InputError(
            f"MONAI Label {found} is installed, and what keeps it safe here was written for {MONAI_LABEL}: "
            "run python -m lmsfe_sam.label.install."
        )


@contextmanager
def settled(app: Path, studies: str, names: list[str], max_pixels: int) -> Iterator[UltrasoundApp]:
    """Set MONAI Label up in an app's folder, and yield its app; take the temporary files away in the end.

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


def serve(
    application: App, host: str, port: int, patience: float, certificate: str | None, key: str | None
) -> None:
    """Serve until interrupted, with limits on time and connections.

    Args:
        application: an ASGI application.
        host: address to listen on.
        port: to listen on.
        patience: seconds for headers, and between requests of one connection at most.
        certificate: path of a TLS certificate, and with it of its ``key``.
        key: path of the certificate's key.
    """
    import uvicorn

    from lmsfe_sam.label.protocol import patient_for

    uvicorn.run(
        application,
        host=host,
        port=port,
        http=patient_for(patience),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=min(5, max(1, int(patience))),
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=2**15,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
