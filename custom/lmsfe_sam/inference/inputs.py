"""From the ``input`` and ``prompts`` of the command line to one record an image."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmsfe_sam.errors import InputError
from lmsfe_sam.images.formats import INPUT_SUFFIXES, VIDEO_SUFFIXES, is_dicom, is_input, stem
from lmsfe_sam.inference.writing import DICOM_SUFFIX, OUTPUT_SUFFIXES
from lmsfe_sam.options import InferenceOptions, check_options
from lmsfe_sam.prompts.prompts_file import PromptsByName, check_names, nfc, read_prompts
from lmsfe_sam.settings import check_device_and_precision

logger = logging.getLogger(__name__)

MOST_NAMED = 8
"""So many of the files that are left out are named."""


def check_settings(device: Any, **values: Any) -> None:
    """Check the options of the inference config.

    Raises:
        InputError: the first value that cannot be right.
    """
    check_options(InferenceOptions, values)
    if "dicom_seg_fractional" in values.get("outputs", ()) and values.get("mode") == "window":
        raise InputError(
            "mode is 'window', whose masks have no probabilities: give auto, zoom or resize with --mode, or "
            "dicom_seg in place of dicom_seg_fractional with --outputs."
        )
    check_device_and_precision(device, values.get("amp"))


def find_inputs(
    source: str | os.PathLike[str] | None,
    prompts: str | os.PathLike[str] | None = None,
    slice_index: int | None = None,
) -> list[dict[str, Any]]:
    """List the images to segment, with their prompts.

    Args:
        source: a file, or a folder whose images and those of its subfolders are taken; None gives an empty
            list. What is no image in the folder is named in the log.
        prompts: a prompts file, or None. Its keys are file names, or paths relative to the folder; both are
            compared in Unicode's form NFC.
        slice_index: which slice of ``source``, if that is a file.

    Returns:
        A record an image: ``image`` (path), ``name`` (path relative to the folder), ``stem`` (of its results,
        unique), ``prompts`` (a list of `ObjectPrompt`, empty where the file has no entry); and ``slice``, if
        one was given for a file.

    Raises:
        InputError: there is no such file or no image in the folder, or the prompts file has an
            error, names a file that is not there, or several by one name.
    """
    given = {} if prompts is None else read_prompts(prompts)
    if source is None:
        return []
    root = Path(source)
    folder = root if root.is_dir() else root.parent
    paths = _list_files(root, prompts)
    names = [path.relative_to(folder) for path in paths]
    if prompts is not None:
        neighbours = names if root.is_dir() else [path.relative_to(folder) for path in folder.iterdir()]
        _check_names(given, neighbours, prompts)
    stems = unique_stems(names)
    chosen = {} if slice_index is None or root.is_dir() else {"slice": slice_index}
    return [
        {
            "image": str(path),
            "name": name.as_posix(),
            "stem": stems[name],
            "prompts": given.get(nfc(name.as_posix())) or given.get(nfc(name.name), []),
            **chosen,
        }
        for path, name in zip(paths, names, strict=True)
    ]


def _check_names(given: PromptsByName, names: Sequence[Path], prompts: str | os.PathLike[str]) -> None:
    """Refuse keys of the prompts file that name no file, or several."""
    check_names(given, {*(name.as_posix() for name in names), *(name.name for name in names)}, prompts)
    shared = Counter(nfc(name.name) for name in names)
    for key in given:
        if shared[key] > 1 and key not in {nfc(name.as_posix()) for name in names}:
            first = next(name.as_posix() for name in names if nfc(name.name) == key)
            raise InputError(
                f"prompts file '{prompts}' names '{key}', of which there are {shared[key]}: "
                f"write each one's path in the folder, such as '{first}'."
            )


def check_dicom(records: Sequence[Mapping[str, Any]], output_ext: str) -> None:
    """Refuse to write masks as DICOM segmentations where no input is DICOM.

    Raises:
        InputError: so it is.
    """
    if output_ext != DICOM_SUFFIX or not records:
        return
    if not any(is_dicom(Path(record["image"])) for record in records):
        raise InputError(
            f"'{records[0]['image']}' is no DICOM file, and a DICOM segmentation belongs to one: "
            f"give one of {', '.join(OUTPUT_SUFFIXES)} with --output_ext."
        )


def unique_stems(paths: list[Path]) -> dict[Path, str]:
    """Name the results of each input: its path without the suffix, or with it where inputs share the former.

    Upper and lower case count as the same, as they are on some file systems.

    Args:
        paths: relative to the folder of the inputs.
    """
    stems = {path: path.with_name(stem(path)).as_posix() for path in paths}
    shared = Counter(name.casefold() for name in stems.values())
    names: dict[Path, str] = {}
    taken = {name for name, count in shared.items() if count == 1}
    for path, name in stems.items():
        if shared[name.casefold()] > 1:
            name, number = path.as_posix(), 1
            while name.casefold() in taken:
                number += 1
                name = f"{path.as_posix()}-{number}"
            taken.add(name.casefold())
        names[path] = name
    return names


def _list_files(source: Path, prompts: str | os.PathLike[str] | None) -> list[Path]:
    if source.is_file():
        if not is_input(source):
            raise InputError(f"input '{source}' is not an image: give one of {', '.join(INPUT_SUFFIXES)}.")
        return [source]
    if not source.is_dir():
        raise InputError(f"input '{source}' does not exist: give an image file or a folder of them.")
    files = list(_walk(source))
    paths = sorted(path for path in files if is_input(path))
    if not paths:
        raise InputError(
            f"input '{source}' holds no image: give a folder with {', '.join(INPUT_SUFFIXES)} or DICOM files."
        )
    own = None if prompts is None else Path(prompts).resolve()
    _note_others([path for path in files if path not in set(paths) and path.resolve() != own], source)
    return paths


def _walk(source: Path) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders; hidden ones and results of inference are left out."""

    def refuse(error: OSError) -> None:
        raise InputError(
            f"input '{error.filename}' cannot be read ({error.strerror}): give a readable folder."
        ) from error

    for name, folders, files in os.walk(source, onerror=refuse):
        here = Path(name)
        if "objects.csv" in files and {"masks", "overlays"} & set(folders):
            if here != source:
                folders.clear()
                continue
            folders[:] = [folder for folder in folders if folder not in ("masks", "overlays")]
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        yield from (here / file for file in files if not file.startswith("."))


def _note_others(paths: Sequence[Path], source: Path) -> None:
    """Say which files of a folder are left out, as none of the formats that are read."""
    if not paths:
        return
    kinds = Counter(path.suffix.lower() or "no suffix" for path in paths)
    counted = ", ".join(f"{count} with {kind}" for kind, count in kinds.most_common(6))
    named = ", ".join(f"'{path.relative_to(source)}'" for path in sorted(paths)[:MOST_NAMED])
    more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
    logger.warning("%d file(s) are left out (%s): %s%s.", len(paths), counted, named, more)
    videos = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        logger.warning(
            "%d of them are videos, such as '%s': save their frames as pictures or as DICOM.",
            len(videos),
            videos[0].relative_to(source),
        )
