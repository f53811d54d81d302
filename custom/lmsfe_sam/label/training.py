"""New weights for a MONAI Label server: trained on the labels saved so far, or sent by a client.

Training is the bundle's own, on a data folder made from the labelled slices. Weights that a client sends are
checked before they take the place of the served ones.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, NamedTuple

import monai.bundle
import numpy as np
import torch
from filelock import FileLock
from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.utils.others.generic import device_list, name_to_device
from PIL import Image
from pydantic import Field

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import atomic_write, unwritable
from lmsfe_sam.images.reading import read_image
from lmsfe_sam.label.checks import TooLargeError
from lmsfe_sam.label.datastore.headers import MAX_PIXELS, check_file
from lmsfe_sam.model.checkpoints import load_weights, network_from_checkpoint, read_description, save_weights
from lmsfe_sam.model.weights.checks import sha256
from lmsfe_sam.options import Options, Positive, Rate, check_options
from lmsfe_sam.predict.predictor import Predictor
from lmsfe_sam.predict.preprocessing import to_rgb_uint8

logger = logging.getLogger(__name__)

DEFAULTS = {"max_epochs": 20, "val_split": 0.2, "learning_rate": 0.0001, "batch_size": 4, "pretrained": True}

MAX_MEMBERS = 20_000

SLACK = 2**24
"""Bytes that a file of weights may have beyond the served one, for other metadata."""

swapping = Lock()


class LabelTrainingOptions(Options):
    """What a client of the MONAI Label server may set for training."""

    max_epochs: Positive = Field(description="passes through the labels")
    val_split: Annotated[float, Field(ge=0, le=0.9)] = Field(description="part of the labels for validation")
    learning_rate: Rate = Field(description="peak learning rate")
    batch_size: Positive = Field(description="slices a batch")
    pretrained: bool = Field(description="start from the weights that are served")


class LabelTrainTask(BundleTrainTask):
    """Runs ``configs/train.json`` on the labelled slices, from the weights that are served.

    The run is stored under ``runs`` in the bundle's folder. Its best weights by validation Dice take the
    place of the served ones, which stay beside them as ``models/before.pt``; the server reloads them.

    Attributes:
        most_pixels: of an image that is trained on.
    """

    most_pixels = MAX_PIXELS

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


class LabelledSlice(NamedTuple):
    """A slice that something was labelled on.

    Attributes:
        number: of the slice, 0 in a picture.
        pixels: (H, W, 3) uint8, as inference sees it.
        mask: (H, W) bool, the union of all labels.
    """

    number: int
    pixels: np.ndarray
    mask: np.ndarray


def labelled_slices(image: str | Path, label: str | Path) -> Iterator[LabelledSlice]:
    """Yield the slices of an image on which its label map is not 0.

    Raises:
        InputError: a file that cannot be read, or a label of another size than its image.
    """
    for index in range(check_label(image, label)):
        mask = _foreground(read_image(label, index).pixels)
        if mask.any():
            yield LabelledSlice(index, to_rgb_uint8(read_image(image, index).pixels), mask)


def check_label(image: str | Path, label: str | Path) -> int:
    """Hold a label's size against its image's; return how many slices they have.

    Raises:
        InputError: a file that cannot be read, or sizes that differ.
    """
    sizes = []
    for file in (image, label):
        shape = read_image(file, 0).shape
        sizes.append((*shape[:2], int(np.prod(shape[2:], dtype=int))))
    if sizes[0] != sizes[1]:
        one, other = ("{} x {} pixels in {} slice(s)".format(*size) for size in sizes)
        raise InputError(f"the label has {other} and its image has {one}: save it in the image's geometry.")
    return sizes[0][2]


def check_raw_label(image: str | Path, label: str | Path) -> None:
    """Hold the size of a label without a header, one byte a pixel as OHIF sends it, against its image's.

    Raises:
        InputError: an image that cannot be read, or sizes that differ.
    """
    pixels = int(np.prod(read_image(image, 0).shape, dtype=int))
    size = Path(label).stat().st_size
    if size != pixels:
        raise InputError(f"the label has {size} bytes and its image {pixels} pixels: send one byte a pixel.")


def export_labels(pairs: Sequence[Mapping[str, Any]], folder: Path, validation_share: float) -> Path:
    """Write pictures, masks and a ``datalist.json`` of all labelled slices.

    The slices of one image stay on one side of the split. With one labelled image it is on both,
    which the log says.

    Args:
        pairs: of paths, ``image`` and ``label``.
        folder: written to.
        validation_share: of the images, 0 to below 1; at least one is used for validation.

    Returns:
        The path of the data list.

    Raises:
        InputError: as `labelled_slices`, or nothing is labelled.
    """
    cases = {}
    for number, pair in enumerate(sorted(pairs, key=lambda pair: str(pair["image"]))):
        entries = [
            _export(one, f"{number:05d}_{one.number:04d}", str(pair["image"]), folder)
            for one in labelled_slices(pair["image"], pair["label"])
        ]
        if entries:
            cases[number] = entries
    if not cases:
        raise InputError("there is no label to train on yet: save one with the tag 'final' first.")
    groups = list(cases.values())
    if len(groups) == 1:
        logger.warning("One labelled image alone: it is both trained and validated on.")
        parts = {"training": groups, "validation": groups}
    else:
        count = min(len(groups) - 1, max(1, round(validation_share * len(groups))))
        order = np.random.default_rng(0).permutation(len(groups))
        parts = {
            "training": [groups[k] for k in sorted(order[count:])],
            "validation": [groups[k] for k in sorted(order[:count])],
        }
    content = {part: [entry for group in members for entry in group] for part, members in parts.items()}
    path = folder / "datalist.json"
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"name": "labels", **content}, indent=1) + "\n", encoding="utf-8")
    return path


def _export(one: LabelledSlice, stem: str, image: str, folder: Path) -> dict[str, Any]:
    names = {"image": f"images/{stem}.png", "label": f"masks/{stem}.png"}
    for key, pixels in (("image", one.pixels), ("label", one.mask.astype(np.uint8) * np.uint8(255))):
        with atomic_write(folder / names[key]) as temporary:
            Image.fromarray(pixels).save(temporary)
    return {**names, "name": f"{Path(image).name}#{one.number}", "group": image}


def _foreground(pixels: np.ndarray) -> np.ndarray:
    """Whatever is not 0; of colours any of them, alpha left out."""
    if pixels.ndim == 3:
        colours = pixels[..., :3] if pixels.shape[-1] > 2 else pixels[..., :1]
        pixels = colours.max(axis=-1)
    return pixels != 0


def replace_weights(sent: Path, served: Path) -> dict[str, Any]:
    """Put a file of weights into the place of the served ones, if it fits and the network works with it.

    The weights before stay beside them as ``before.pt``.

    Returns:
        Checksum and time of the file that is served now.

    Raises:
        InputError: it does not; the served weights are as they were.
    """
    with swapping:
        check_archive(sent, served)
        network = load_weights(network_from_checkpoint(served), sent)
        check_network(network)
        install_weights(sent, served)
        return weights_info(served)


def weights_info(served: Path) -> dict[str, Any]:
    """Return checksum and time of a file, in MONAI Label's form."""
    return {"checksum": f"SHA256:{sha256(served)}", "modified_time": int(served.stat().st_mtime)}


def check_archive(sent: Path, served: Path) -> None:
    """Refuse a file that is not a plain archive of tensors, before anything in it is read.

    PyTorch's own files are archives without compression; a compressed one may decompress to anything.

    Raises:
        InputError: the file is not a plain archive of tensors.
    """
    if not zipfile.is_zipfile(sent):
        raise InputError(
            "the file of weights is not a PyTorch checkpoint: save a state_dict() with torch.save."
        )
    try:
        with zipfile.ZipFile(sent) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError("the file of weights is damaged: send it again.") from error
    if len(members) > MAX_MEMBERS or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise InputError(
            "the file of weights is compressed, or no PyTorch checkpoint: save it with torch.save."
        )
    max_bytes = 2 * served.stat().st_size + SLACK
    total = sum(max(member.file_size, member.compress_size) for member in members)
    if max(total, sent.stat().st_size) > max_bytes:
        raise TooLargeError(
            "the file of weights is far larger than the served one: send the state_dict() alone."
        )
    if any(member.filename.rsplit("/", 1)[-1] == "constants.pkl" for member in members):
        raise InputError("the file of weights is a TorchScript program: send the state_dict() alone.")
    try:
        torch.load(sent, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or a malicious pickle makes of it
        raise InputError(
            "the file of weights holds more than tensors, or is damaged: save it again."
        ) from error


def check_network(network: Any) -> None:
    """Refuse weights that hold NaN or infinity, or produce them on a grey image.

    Raises:
        InputError: the weights are unusable.
    """
    finite = all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values())
    if finite:
        predictor = Predictor(network)
        predictor.set_image(np.full((64, 64), 128, np.uint8))
        _, iou, logits = predictor.predict()
        finite = bool(np.isfinite(np.asarray(iou)).all() and np.isfinite(np.asarray(logits)).all())
    if not finite:
        raise InputError("the weights hold or produce NaN or infinity: train again with a lower rate.")
