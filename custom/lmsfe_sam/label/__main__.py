"""Start a MONAI Label server with this bundle, on this machine alone and without the internet.

``python -m lmsfe_sam.label --studies FOLDER`` serves the bundle under two names: one segments without a
prompt, the other, with ``deepgrow`` in its name, by clicks and boxes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from lmsfe_sam.errors import InputError, plain_errors
from lmsfe_sam.label.folders import prepare_app

NAMES = "lmsfe_sam_ultrasound_segmentation,lmsfe_sam_ultrasound_deepgrow"
BUNDLE = Path(__file__).resolve().parents[3] / "bundle"
SHIM = Path(__file__).with_name("shim")

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".dcm")

ENVIRONMENT = {
    "BUNDLE_DOWNLOAD_SRC": "local",  # never looks for a model zoo
    "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",  # strategies score what they need
    "MONAI_LABEL_DATASTORE_FILE_EXT": json.dumps([f"*{suffix}" for suffix in SUFFIXES]),
    "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": '{"Modality": "US"}',
}
"""MONAI Label's settings that differ from its defaults; the user's own come first."""


def main(arguments: list[str] | None = None) -> None:
    """Prepare the app's folder and serve it until interrupted.

    Raises:
        InputError: MONAI Label is not installed, or an option that cannot be right.
    """
    options = _parser().parse_args(arguments)
    if find_spec("monailabel") is None:
        raise InputError("MONAI Label is not installed: run python -m lmsfe_sam.label.install first.")
    is_web = options.studies.startswith(("http://", "https://"))
    if not is_web and not Path(options.studies).is_dir():
        raise InputError(f"studies '{options.studies}' is no folder: give the folder of the images.")
    names = [name.strip() for name in options.names.split(",")]
    app = Path(options.app).resolve()
    prepare_app(app, Path(options.bundle), names)
    _set_environment(app, options.max_body)
    from monailabel.main import Main  # reads the environment

    command = ["start_server", "--app", str(app), "--studies", options.studies]
    command += ["--conf", "models", ",".join(names), "--host", options.host, "--port", str(options.port)]
    command += ["--verbose", options.verbose, "--uvicorn_app", "lmsfe_sam.label.server:application"]
    label = Main()
    label.action_start_server(label.args_parser().parse_args(command))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m lmsfe_sam.label", description=__doc__)
    parser.add_argument("--studies", required=True, help="folder of images, or a DICOMweb address")
    parser.add_argument("--bundle", default=str(BUNDLE), help=f"the bundle's folder (default {BUNDLE})")
    parser.add_argument("--app", default="runs/label", help="the server's own folder (default runs/label)")
    parser.add_argument("--names", default=NAMES, help=f"what it is served as (default {NAMES})")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default 8000)")
    parser.add_argument("--max_body", type=float, default=512, help="largest request in MB (default 512)")
    parser.add_argument(
        "--verbose", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"], help="how much is logged"
    )
    return parser


def _set_environment(app: Path, max_body: float) -> None:
    for key, value in {**ENVIRONMENT, "MONAI_LABEL_SESSION_PATH": str(app / "sessions")}.items():
        os.environ.setdefault(key, value)
    os.environ["LMSFE_SAM_MAX_BODY"] = str(max_body)
    if find_spec("pydicom_seg") is None:
        sys.path.append(str(SHIM))
        paths = [path for path in (os.environ.get("PYTHONPATH"), str(SHIM)) if path]
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # for the processes that MONAI Label starts


if __name__ == "__main__":
    plain_errors()
    main()
