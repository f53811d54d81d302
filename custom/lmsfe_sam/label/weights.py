"""Weights that a client sends: looked at from all sides, then put in the place of the served ones."""

from __future__ import annotations

import zipfile
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch

from lmsfe_sam.errors import InputError
from lmsfe_sam.label.faults import TooLargeError
from lmsfe_sam.label.training import install_weights
from lmsfe_sam.model.checkpoints import load_weights, network_from_checkpoint
from lmsfe_sam.model.weight_files import sha256
from lmsfe_sam.predict.predictor import Predictor

MOST_MEMBERS = 20_000
SLACK = 2**24
"""Bytes that a file of weights may have beyond the served one, for other metadata."""

swapping = Lock()


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
    """Refuse a file that is no plain archive of tensors, before anything in it is read.

    PyTorch's own files are archives without compression; a compressed one may unfold to anything.

    Raises:
        InputError: it is none.
    """
    if not zipfile.is_zipfile(sent):
        raise InputError("the file of weights is no PyTorch checkpoint: save a state_dict() with torch.save.")
    try:
        with zipfile.ZipFile(sent) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError("the file of weights is damaged: send it again.") from error
    if len(members) > MOST_MEMBERS or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise InputError(
            "the file of weights is compressed, or no PyTorch checkpoint: save it with torch.save."
        )
    most = 2 * served.stat().st_size + SLACK
    total = sum(max(member.file_size, member.compress_size) for member in members)
    if max(total, sent.stat().st_size) > most:
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
    """Refuse weights that are no numbers, or make none of a grey image.

    Raises:
        InputError: they are or do.
    """
    finite = all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values())
    if finite:
        predictor = Predictor(network)
        predictor.set_image(np.full((64, 64), 128, np.uint8))
        _, iou, logits = predictor.predict()
        finite = bool(np.isfinite(np.asarray(iou)).all() and np.isfinite(np.asarray(logits)).all())
    if not finite:
        raise InputError(
            "the weights hold or give numbers that are none (NaN): train again with a lower rate."
        )
