"""Training from a MONAI Label server: the bundle's own training on the labels saved so far."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import monai.bundle
import torch
from filelock import FileLock
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import unwritable
from lmsfe_sam.label.headers import MOST_PIXELS, check_file
from lmsfe_sam.label.records import export_labels
from lmsfe_sam.model.checkpoints import load_weights, network_from_checkpoint, read_description, save_weights
from lmsfe_sam.options import LabelTrainingOptions, check_options

logger = logging.getLogger(__name__)

DEFAULTS = {"max_epochs": 20, "val_split": 0.2, "learning_rate": 0.0001, "batch_size": 4, "pretrained": True}


class LabelTrainTask(BundleTrainTask):
    """Runs ``configs/train.json`` on the labelled slices, from the weights that are served.

    The run is kept under ``runs`` in the bundle's folder. Its best weights by validation Dice take the
    place of the served ones, which stay beside them as ``models/before.pt``; the server reloads them.

    Attributes:
        most_pixels: of an image that is learnt from.
    """

    most_pixels = MOST_PIXELS

    def config(self) -> dict[str, Any]:
        """What a client may set, with its defaults."""
        return {**DEFAULTS, "device": device_list()}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train; return the run's folder and the number of labels.

        Raises:
            InputError: no label yet, or an option of the wrong kind or range.
        """
        options = {key: request.get(key, default) for key, default in DEFAULTS.items()}
        check_options(LabelTrainingOptions, options)
        bundle = Path(self.bundle_path)
        with FileLock(bundle / ".training.lock"):  # also against another process that trains these weights
            return self._train(request, datastore, options, bundle)

    def _train(
        self, request: dict[str, Any], datastore: Datastore, options: dict[str, Any], bundle: Path
    ) -> dict[str, Any]:
        served = bundle / "models" / "model.pt"
        pairs = self._fetch_datalist(request, datastore)
        for pair in pairs:
            for file in (pair["image"], pair["label"]):
                check_file(file, self.most_pixels)
        run = new_folder(bundle / "runs")
        try:
            datalist = export_labels(pairs, run / "data", options["val_split"])
        except InputError:
            shutil.rmtree(run, ignore_errors=True)
            raise
        monai.bundle.run(
            run_id="run",
            meta_file=self.bundle_metadata_path,
            config_file=self.bundle_config_path,
            bundle_root=self.bundle_path,
            dataset_dir=str(datalist),
            output_dir=str(run),
            pretrained=str(served) if options["pretrained"] else None,
            epochs=options["max_epochs"],
            batch_size=options["batch_size"],
            learning_rate=options["learning_rate"],
            device=torch.device(name_to_device(request.get("device"))),
            **read_description(served),
        )
        install_weights(run / "model.pt", served)
        return {"run": str(run), "labels": len(pairs)}


def new_folder(runs: Path) -> Path:
    """Make a folder of this moment that nobody else has.

    Raises:
        InputError: it cannot be made.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=runs))
        folder.chmod(0o755)
    except OSError as error:
        raise unwritable(Path("runs"), error) from error
    return folder


def install_weights(trained: Path, served: Path) -> None:
    """Put trained weights into the place of the served ones, which stay beside them as ``before.pt``."""
    with FileLock(served.with_name(".swap.lock")):
        network = network_from_checkpoint(served)
        save_weights(network, served.with_name("before.pt"))
        save_weights(load_weights(network, trained), served)
    logger.info("Other weights are served from now on; those before them are in before.pt.")
