"""Endpoints: the images and labels of the datastore."""

from __future__ import annotations

import hmac
import os
import tempfile
import zipfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, File, Form, Query, UploadFile
from fastapi.responses import FileResponse
from monailabel.utils.others.generic import file_checksum, get_mime_type

from lmsfe_sam.errors import InputError
from lmsfe_sam.images.formats import known_suffix, stem
from lmsfe_sam.label.app import DicomWebStore
from lmsfe_sam.label.checks import NotFoundError, base_name, check_known, check_tag, read_info, shorten
from lmsfe_sam.label.datastore.headers import RAW, check_file, check_image, uploaded
from lmsfe_sam.label.state import Shared, State
from lmsfe_sam.label.training import check_label, check_raw_label

router = APIRouter(prefix="/datastore")
archive = APIRouter(prefix="/datastore")

AFile = Annotated[UploadFile, File()]
Params = Annotated[str, Form()]


class Listing(StrEnum):
    """How much of the datastore is listed."""

    train = "train"
    stats = "stats"
    all = "all"


@router.get("/")
def listing(state: Shared, output: Listing = Listing.stats) -> Any:
    """Count or list images and labels."""
    store = state.app.datastore()
    return {Listing.all: store.json, Listing.train: store.datalist, Listing.stats: store.status}[output]()


@router.put("/")
@router.put("/image")
def add_image(state: Shared, file: AFile, image: str | None = None, params: Params = "{}") -> Any:
    """Add an image under a name that is free."""
    info = read_info(params, "params")
    name = image or stem(Path(base_name(file.filename)))
    check_tag(name)
    with uploaded(file.file, file.filename) as copy:
        with state.app.inferring:
            check_image(copy, state.app.max_pixels)
        path = Path(copy)
        if not known_suffix(path):  # DICOM, recognised by its content
            path = path.rename(f"{copy}.dcm")
        try:
            return {"image": state.app.datastore().add_image(name, str(path), info)}
        finally:
            path.unlink(missing_ok=True)


@router.delete("/")
@router.delete("/image")
def remove_image(state: Shared, id: str) -> Any:
    """Delete an image and its labels."""
    known_image(state, id)
    state.app.datastore().remove_image(id)
    return {}


@router.head("/image")
def has_image(state: Shared, image: str, check_sum: str | None = None) -> Any:
    """Say by the status whether there is an image, and whether it has a checksum such as ``SHA256:...``."""
    path = known_image(state, image)
    if check_sum:
        method, _, digest = f"SHA256:{check_sum}".rpartition(":")
        method = method.rpartition(":")[2].upper()
        if method not in ("SHA256", "SHA512", "MD5"):
            raise InputError(
                "check_sum is of an unknown kind: give SHA256:DIGEST, SHA512:DIGEST or MD5:DIGEST."
            )
        there = file_checksum(path, algo=method).rpartition(":")[2]
        if not hmac.compare_digest(there.encode(), digest.strip().lower().encode("utf-8", "replace")):
            raise NotFoundError("the image has another checksum: fetch it again.")
    return {}


@router.get("/image")
def get_image(state: Shared, image: str) -> Any:
    """Send an image's file."""
    return send(known_image(state, image))


@router.get("/image/info")
def get_image_info(state: Shared, image: str) -> Any:
    """Return the stored information of an image."""
    known_image(state, image)
    return state.app.datastore().get_image_info(image)


@router.put("/image/info")
def set_image_info(state: Shared, image: str, info: Params = "{}") -> Any:
    """Add to the stored information of an image."""
    known_image(state, image)
    return state.app.datastore().update_image_info(image, read_info(info))


@router.put("/label")
def save_label(state: Shared, image: str, label: AFile, params: Params = "{}", tag: str = "final") -> Any:
    """Save a label that is an image of the right size; ``final`` ones are trained on."""
    info, tag, app = read_info(params, "params"), tag or "final", state.app
    check_tag(tag)
    path = known_image(state, image)
    with uploaded(label.file, label.filename) as copy:
        if not copy.endswith(RAW):
            check_file(copy, app.max_pixels)
            check_file(path, app.max_pixels)
            with app.inferring:
                check_label(path, copy)
        elif isinstance(app.datastore(), DicomWebStore):  # which gives it a header
            check_file(path, app.max_pixels)
            with app.inferring:
                check_raw_label(path, copy)
        else:
            raise InputError("a label without a header is for DICOMweb servers: send PNG, NIfTI or NRRD.")
        name = app.datastore().save_label(image, copy, tag, info)
    return {"image": image, "label": name}


@router.delete("/label")
def remove_label(state: Shared, id: str, tag: str) -> Any:
    """Delete a label."""
    check_tag(tag)
    known_image(state, id)
    state.app.datastore().remove_label(id, tag)
    return {}


@router.head("/label")
def has_label(state: Shared, image: str, tag: str) -> Any:
    """Say by the status whether an image has a label."""
    known_label(state, image, tag)
    return {}


@router.get("/label")
def get_label(state: Shared, label: str, tag: str) -> Any:
    """Send a label's file."""
    return send(known_label(state, label, tag))


@router.get("/label/info")
def get_label_info(state: Shared, label: str, tag: str) -> Any:
    """Return the stored information of a label."""
    known_label(state, label, tag)
    return state.app.datastore().get_label_info(label, tag)


@router.put("/label/info")
def set_label_info(state: Shared, label: str, tag: str, info: Params = "{}") -> Any:
    """Add to what is known of a label."""
    known_label(state, label, tag)
    return state.app.datastore().update_label_info(label, tag, read_info(info))


@archive.get("/dataset")
def get_dataset(
    state: Shared, background_tasks: BackgroundTasks, limit_cases: Annotated[int | None, Query(ge=1)] = None
) -> Any:
    """Send all images with a final label, and these, as one archive."""
    pairs = state.app.datastore().datalist()[:limit_cases]
    if not pairs:
        raise NotFoundError("there is no image with a final label yet: save one first.")
    handle, name = tempfile.mkstemp(suffix=".zip")
    background_tasks.add_task(Path(name).unlink, missing_ok=True)
    try:
        with os.fdopen(handle, "wb") as stream, zipfile.ZipFile(stream, "w") as zipped:
            for pair in pairs:
                for key, path in pair.items():
                    zipped.write(path, f"{key}/{Path(path).name}")
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    return FileResponse(name, media_type="application/zip", filename="dataset.zip")


def known_image(state: State, name: str) -> str:
    """Return an image's path.

    Raises:
        NotFoundError: there is no such image.
    """
    return state.app.path_of(name)


def known_label(state: State, name: str, tag: str) -> str:
    """Return a label's path.

    Raises:
        InputError: a tag that is not a name, or there is no such label.
    """
    check_tag(tag)
    known_image(state, name)
    store = state.app.datastore()
    tags = list(store.get_labels_by_image_id(name))
    check_known(f"label of '{shorten(name, 40)}' with the tag", tag, tags)
    path = store.get_label_uri(name, tag)
    if not path:
        raise NotFoundError(f"there is no label '{shorten(tag)}' of '{shorten(name)}'.")
    return path


def send(path: str) -> FileResponse:
    """Return a file as a download, so that no browser shows it as a page."""
    return FileResponse(path, media_type=get_mime_type(path), filename=Path(path).name)
