"""The MONAI Label app: each folder under ``model`` is a bundle to segment with, to train and to score by."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.infer.bundle import BundleInferTask

from lmsfe_sam.errors import find_input_error
from lmsfe_sam.label.checks import for_clients
from lmsfe_sam.label.request import add_request_transforms
from lmsfe_sam.label.scoring import MEASURES, LeastSure, Uncertainty
from lmsfe_sam.label.training import LabelTrainTask
from lmsfe_sam.version import __version__

logger = logging.getLogger(__name__)

LABELS = {"lesion": 1}
"""Names and pixel values, as clients show them; the metadata's ``channel_def`` counts channels from 0."""

CONFIG = {"slice": -1}
"""What a client may set in its table of options: the slice of a volume, -1 for that of the prompts."""


class UltrasoundApp(MONAILabelApp):
    """MONAI Label's own ``monaibundle`` app, with scoring by prompts, and weights that must fit.

    Args:
        app_dir: holds the bundles under ``model``.
        studies: folder of images, or the address of a DICOMweb server.
        conf: ``models`` names the bundles, separated by commas.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        names = [name.strip() for name in conf["models"].split(",")]
        self.bundles = {name: str(Path(app_dir) / "model" / name) for name in names}
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="LMSFE-SAM",
            description="Lesions in ultrasound, from a box, clicks or nothing",
            version=__version__,
        )

    def init_infers(self) -> dict[str, InferTask]:
        """One task a bundle; a folder name with ``deepgrow`` in it makes an interactive one."""
        tasks: dict[str, InferTask] = {}
        for name, path in self.bundles.items():
            conf = {**self.conf, "preload": "true"}
            task = BundleInferTask(path, conf, load_strict=True, config=dict(CONFIG))
            task.labels = LABELS
            task.bundle_config["mode"] = "resize"  # one embedding an image; windows move with the prompts
            task.bundle_config["cached_embeddings"] = 8
            add_request_transforms(task.bundle_config)
            tasks[name] = task
        return tasks

    def init_trainers(self) -> dict[str, TrainTask]:
        """One task a bundle."""
        return {name: LabelTrainTask(path, self.conf) for name, path in self.bundles.items()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """One method a measure, by the first bundle's network."""
        task = next(iter(self._infers.values()))
        return {name: Uncertainty(name, task) for name in MEASURES}

    def init_strategies(self) -> dict[str, Strategy]:
        """MONAI Label's ``first`` and ``random``, and the least sure first by each measure."""
        task = next(iter(self._infers.values()))
        least_sure = {f"least_sure_by_{name}": LeastSure(Uncertainty(name, task)) for name in MEASURES}
        return {**least_sure, "first": First(), "random": Random()}

    def batch_infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> Any:
        """Segment many images; one that cannot be gets a sentence under ``error``, and the rest is done.

        MONAI Label's own defaults share the images out among GPUs, also where there is none.
        """
        if not torch.cuda.is_available():
            request = {**request, "multi_gpu": False}
        return self._batch_infer(request, datastore or self.datastore(), self._infer_or_say_why_not)

    def _infer_or_say_why_not(self, request: dict[str, Any], datastore: Datastore) -> Any:
        try:
            return self.infer(request, datastore)
        except Exception as error:
            wrong = find_input_error(error)
            if wrong is None:
                raise
            logger.warning("Left out of the batch: %s", wrong)
            return {"error": for_clients(str(wrong))}
