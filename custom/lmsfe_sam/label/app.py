"""The MONAI Label app: each folder under ``model`` is a bundle to segment with, to train and to score by."""

from __future__ import annotations

import logging
from pathlib import Path
from threading import RLock
from typing import Any

import torch
from dicomweb_client.session_utils import create_session_from_user_pass
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX, DICOMWebDatastore
from monailabel.datastore.utils.dicom import dicom_web_download_series
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random

from lmsfe_sam.errors import InputError, find_input_error
from lmsfe_sam.inference.writers.label_maps import DICOM_SUFFIX
from lmsfe_sam.label.answers import AnsweringTask
from lmsfe_sam.label.checks import NotFoundError, check_tag, for_clients, shorten
from lmsfe_sam.label.datastore.headers import MAX_PIXELS, check_file
from lmsfe_sam.label.datastore.records import SafeSessions
from lmsfe_sam.label.datastore.store import SafeStore
from lmsfe_sam.label.request import EXTENSION, add_request_transforms
from lmsfe_sam.label.scoring import MEASURES, LeastSure, Uncertainty
from lmsfe_sam.label.training import LabelTrainTask
from lmsfe_sam.version import __version__

logger = logging.getLogger(__name__)

LABELS = {"lesion": 1}
"""Names and pixel values, as clients show them; the metadata's ``channel_def`` counts channels from 0."""

FILE = "file"
"""In a request: the path of an image that the server itself has put somewhere, instead of a name."""

CONFIG = {"slice": -1}
"""What a client may set in its table of options: the slice of a volume, -1 for that of the prompts."""


class UltrasoundApp(MONAILabelApp):
    """MONAI Label's own ``monaibundle`` app, with scoring by prompts, and weights that must fit.

    Args:
        app_dir: holds the bundles under ``model``.
        studies: folder of images, or the address of a DICOMweb server.
        conf: ``models`` names the bundles, separated by commas; ``max_pixels`` limits an image.
    """

    _datastore: SafeStore
    studies: str

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        names = [name.strip() for name in conf["models"].split(",")]
        self.max_pixels = int(conf.get("max_pixels", MAX_PIXELS))
        self.inferring = RLock()  # the pipeline changes its config and Python's path; one image is in memory
        self.bundles = {name: str(Path(app_dir) / "model" / name) for name in names}
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="LMSFE-SAM",
            description="Lesions in ultrasound, from a box, clicks or nothing",
            version=__version__,
        )

    def init_datastore(self) -> Datastore:
        """Return the folder of studies, or the DICOMweb server of that address."""
        if self.studies.startswith(("http://", "https://")):
            self.studies = self.studies.strip().rstrip("/")
            return self._init_dicomweb_datastore()
        return SafeStore(
            self.studies,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def _init_dicomweb_datastore(self) -> Datastore:
        user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        client = DICOMwebClientX(
            url=self.studies,
            session=create_session_from_user_pass(user, password) if user and password else None,
            qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
            wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
            stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
        )
        cache = settings.MONAI_LABEL_DICOMWEB_CACHE_PATH or str(Path(self.app_dir) / "dicom")
        return DicomWebStore(
            client,
            settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER,
            cache,
            settings.MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME,
            settings.MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI,
        )

    def _load_sessions(self, load: bool = False) -> SafeSessions | None:
        if not load:
            return None
        return SafeSessions(settings.MONAI_LABEL_SESSION_PATH, settings.MONAI_LABEL_SESSION_EXPIRY)

    def init_infers(self) -> dict[str, InferTask]:
        """One task a bundle; a folder name with ``deepgrow`` in it makes an interactive one."""
        tasks: dict[str, InferTask] = {}
        for name, path in self.bundles.items():
            conf = {**self.conf, "preload": "true"}
            task = AnsweringTask(path, conf, load_strict=True, config=dict(CONFIG))
            task.labels = LABELS
            task.bundle_config["mode"] = "resize"  # one embedding an image; windows move with the prompts
            task.bundle_config["cached_embeddings"] = 8
            add_request_transforms(task.bundle_config)
            tasks[name] = task
        return tasks

    def init_trainers(self) -> dict[str, TrainTask]:
        """One task a bundle."""
        tasks = {name: LabelTrainTask(path, self.conf) for name, path in self.bundles.items()}
        for task in tasks.values():
            task.most_pixels = self.max_pixels
        return dict(tasks)

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """One method a measure, by the first bundle's network."""
        task = next(iter(self._infers.values()))
        return {name: Uncertainty(name, task, self.max_pixels, self.inferring) for name in MEASURES}

    def init_strategies(self) -> dict[str, Strategy]:
        """MONAI Label's ``first`` and ``random``, and the least certain first by each measure."""
        least_sure = {
            f"least_sure_by_{name}": LeastSure(method) for name, method in self.init_scoring_methods().items()
        }
        return {**least_sure, "first": First(), "random": Random()}

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Segment one image.

        MONAI Label's own would take any path of the disk for an image.

        Args:
            request: ``model``; ``image``, a name in the datastore, or `FILE`; what the pipeline may see; and
                ``save_label`` with ``label_tag`` if the mask is to be saved, which only a named image's can.
            datastore: the app's own by default.

        Raises:
            InputError: no such image, one that is too large, or prompts that do not fit it.
        """
        store = datastore or self.datastore()
        parameters = dict(request)
        save, tag = bool(parameters.pop("save_label", False)), parameters.pop("label_tag", None) or "original"
        check_tag(tag)
        name, path = parameters.pop("image", ""), parameters.pop(FILE, "")
        if not path:
            path = self.path_of(name, store, as_dicom=parameters.get(EXTENSION) == DICOM_SUFFIX)
        check_file(path, self.max_pixels)
        task = self._infers[parameters["model"]]
        with self.inferring:
            file, result = task(
                {**parameters, "image": path, "description": task.description, "logging": "WARNING"}
            )
        label = file
        if save and name and file and Path(file).exists():
            label = store.save_label(name, file, tag, {"model": parameters["model"], "params": result})
        return {"label": label, "tag": tag, "file": file, "params": result}

    def path_of(self, name: Any, store: Datastore | None = None, as_dicom: bool = False) -> str:
        """Return the path of an image of the datastore.

        Args:
            name: of the image.
            store: the app's own by default.
            as_dicom: return the DICOM file of a series of a DICOMweb server, and not the NIfTI made of it.

        Raises:
            NotFoundError: the datastore has no such image.
            InputError: ``as_dicom``, and the series has several files.
        """
        store = store or self.datastore()
        known = store.list_images()
        path = ""
        if isinstance(name, str) and name in known:
            is_series = as_dicom and isinstance(store, DicomWebStore)
            path = store.dicom_file(name) if is_series else store.get_image_uri(name)
        if not path:
            there = (
                f"there are {', '.join(known)}" if 0 < len(known) <= 20 else f"there are {len(known)} others"
            )
            raise NotFoundError(f"there is no image '{shorten(name)}': {there}.")
        return path

    def batch_infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> Any:
        """Segment many images; one that cannot be gets a sentence under ``error``, and the rest is done.

        MONAI Label's own defaults share the images out among GPUs, also where there is none.
        """
        if not torch.cuda.is_available():
            request = {**request, "multi_gpu": False}
        return self._batch_infer(request, datastore or self.datastore(), self._try_infer)

    def _try_infer(self, request: dict[str, Any], datastore: Datastore) -> Any:
        try:
            return self.infer(request, datastore)
        except Exception as error:
            wrong = find_input_error(error)
            logger.warning("An image was left out of the batch (%s).", type(wrong or error).__name__)
            sentence = str(wrong) if wrong else f"the server failed with {type(error).__name__}."
            return {"error": for_clients(sentence)}


class DicomWebStore(DICOMWebDatastore, SafeStore):
    """MONAI Label's store before a DICOMweb server, whose local files are stored as `SafeStore` does."""

    def get_image_uri(self, image_id: str) -> str:
        """Return the path of a series, fetched and converted if need be."""
        check_tag(image_id)
        return str(super().get_image_uri(image_id))

    def dicom_file(self, image_id: str) -> str:
        """Return the path of the only DICOM file of a series, fetched if need be.

        Raises:
            InputError: the series has several files: a segmentation is of one.
        """
        check_tag(image_id)
        folder = Path(self._datastore.image_path()) / image_id
        files = sorted(folder.glob("*.dcm"))
        if not files:
            dicom_web_download_series(None, image_id, str(folder), self._client, self._fetch_by_frame)
            files = sorted(folder.glob("*.dcm"))
        if len(files) != 1:
            raise InputError(
                f"the series '{image_id}' has {len(files)} files, and a DICOM segmentation is made of one, "
                "such as a loop: send the file itself."
            )
        return str(files[0])

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Return the path of a label, fetched and converted if need be."""
        check_tag(label_id)
        check_tag(label_tag)
        return str(super().get_label_uri(label_id, label_tag, image_id))
