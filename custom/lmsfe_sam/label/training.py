"""Training from a MONAI Label server: the bundle's own training on the labels saved so far."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import monai.bundle
import torch
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from lmsfe_sam.label.records import export_labels
from lmsfe_sam.model.checkpoints import load_weights, network_from_checkpoint, read_description, save_weights
from lmsfe_sam.options import LabelTrainingOptions, check_options

logger = logging.getLogger(__name__)

DEFAULTS = {"max_epochs": 20, "val_split": 0.2, "learning_rate": 0.0001, "batch_size": 4, "pretrained": True}


class LabelTrainTask(BundleTrainTask):
    """Runs ``configs/train.json`` on the labelled slices, from the weights that are served.

    The run is kept under ``runs`` in the bundle's folder. Its best weights by validation Dice take the
    place of the served ones, which stay beside them as ``models/before.pt``; the server reloads them.
    """

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
        served = bundle / "models" / "model.pt"
        run = bundle / "runs" / time.strftime("%Y%m%d-%H%M%S")
        pairs = self._fetch_datalist(request, datastore)
        datalist = export_labels(pairs, run / "data", options["val_split"])
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


def install_weights(trained: Path, served: Path) -> None:
    """Put trained weights into the place of the served ones, which stay beside them as ``before.pt``."""
    network = network_from_checkpoint(served)
    save_weights(network, served.with_name("before.pt"))
    save_weights(load_weights(network, trained), served)
    logger.info("%s is served from now on; the weights before it are in before.pt beside it.", trained)
