"""From the ``input`` and ``prompts`` of the command line to one record per image."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmsfe_sam.distributed import check_device_and_precision
from lmsfe_sam.errors import InputError
from lmsfe_sam.images.formats import INPUT_SUFFIXES, VIDEO_SUFFIXES, is_dicom, is_input, stem, written_name
from lmsfe_sam.images.frames import choose_frames, is_video, numbered_pictures, open_frames
from lmsfe_sam.images.limits import MAX_PIXELS
from lmsfe_sam.inference.writers.label_maps import DICOM_SUFFIX, OUTPUT_SUFFIXES
from lmsfe_sam.options import InferenceOptions, check_options
from lmsfe_sam.prompts.prompt import ObjectPrompt
from lmsfe_sam.prompts.prompts_file import PromptsByName, check_names, nfc, read_prompts

logger = logging.getLogger(__name__)

OF_PROBABILITIES = ("dicom_seg_fractional", "uncertainty")
"""Outputs that need each object's probabilities."""

MAX_NAMED = 8
"""So many of the files that are left out are named."""


def check_settings(device: Any, **values: Any) -> None:
    """Check the options of the inference config.

    Raises:
        InputError: the first invalid value.
    """
    check_options(InferenceOptions, values)
    needing = [output for output in values.get("outputs", ()) if output in OF_PROBABILITIES]
    if needing and values.get("mode") == "window":
        raise InputError(
            "mode is 'window', whose masks have no probabilities: give auto, zoom or resize with --mode, or "
            f"leave {' and '.join(needing)} out of --outputs."
        )
    check_device_and_precision(device, values.get("amp"))


def find_inputs(
    source: str | os.PathLike[str] | None,
    prompts: str | os.PathLike[str] | None = None,
    slice_index: int | None = None,
    frames: str | int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> list[dict[str, Any]]:
    """List the images to segment, with their prompts.

    Args:
        source: a file, or a folder whose images and those of its subfolders are taken; None gives an empty
            list. Other files in the folder are named in the log.
        prompts: a prompts file, or None. Its keys are file names, or paths relative to the folder; both are
            compared in Unicode's form NFC.
        slice_index: which slice of ``source``, if that is a file.
        frames: ``all`` or ``A:B`` for files of several frames, videos and a folder of numbered pictures,
            which become cines; or a number, as ``slice_index``.
        max_pixels: that reading a frame may take memory for; larger files count as of one frame.

    Returns:
        A record an image: ``image`` (path), ``name`` (path relative to the folder), ``stem`` (of its
        results, unique), ``prompts`` (a list of `ObjectPrompt`, empty where the file has no entry);
        ``slice``, if one was given for a file; and ``frame``, the one segmented of several. A cine has
        ``frames`` (their numbers) and ``frame_prompts`` (by their numbers), and all of these in
        ``prompts``.

    Raises:
        InputError: there is no such file or no image in the folder, or the prompts file has an
            error, names a file that is not there, or several by one name.
    """
    if slice_index is not None and frames is not None:
        raise InputError(
            f"slice is {slice_index} and frames {frames}: give one of them, as --frames K or A:B."
        )
    given = {} if prompts is None else read_prompts(prompts)
    if source is None:
        return []
    root = Path(source)
    if isinstance(frames, str) and (pictures := numbered_pictures(root) if root.is_dir() else []):
        title = root.resolve().name
        cine = {"image": str(root), "name": title, "stem": title}
        return [_cine_record(cine, frames, len(pictures), given, prompts, pictures)]
    if isinstance(frames, int):
        slice_index = frames
    folder = root if root.is_dir() else root.parent
    paths = _list_files(root, prompts, isinstance(frames, str))
    names = [written_name(path.relative_to(folder)) for path in paths]
    if prompts is not None:
        neighbours = names if root.is_dir() else [path.relative_to(folder) for path in folder.iterdir()]
        _check_names(given, neighbours, prompts)
    stems = unique_stems(names)
    chosen = {} if slice_index is None or root.is_dir() else {"slice": slice_index}
    records: list[dict[str, Any]] = []
    for path, name in zip(paths, names, strict=True):
        record: dict[str, Any] = {"image": str(path), "name": name.as_posix(), "stem": stems[name]}
        count = None if frames is None and slice_index is None else _frame_count(path, max_pixels)
        if isinstance(frames, str) and count is None and is_video(path):
            # Reading it says why it cannot be, when the other files are done.
            records.append({**record, "prompts": [], "frames": [0], "frame_prompts": {}})
            continue
        if isinstance(frames, str) and count is not None and count > 1:
            records.append(_cine_record(record, frames, count, given, prompts))
            continue
        objects = given.get(nfc(name.as_posix())) or given.get(nfc(name.name), [])
        if slice_index is not None and count is not None and count > 1:
            record["frame"] = slice_index
            if frames is not None:
                record["stem"] += f"_f{slice_index}"
            keys = (f"{nfc(key)}#{slice_index}" for key in (name.as_posix(), name.name))
            objects = next((given[key] for key in keys if key in given), objects)
        elif not objects:
            objects = _of_only_frame(path, name, given, prompts, max_pixels)
        records.append({**record, "prompts": objects, **chosen})
    return records


def _of_only_frame(
    path: Path,
    name: Path,
    given: PromptsByName,
    prompts: str | os.PathLike[str] | None,
    max_pixels: int,
) -> list[ObjectPrompt]:
    """Return the prompts whose key names frame 0 of a file that has no other.

    Raises:
        InputError: a key names another frame of it.
    """
    keys = [
        key
        for key in given
        if key.rpartition("#")[0] in (nfc(name.as_posix()), nfc(name.name))
        and key.rpartition("#")[2].isdigit()
    ]
    if not keys or _frame_count(path, max_pixels) != 1:
        return []
    if other := next((key for key in keys if int(key.rpartition("#")[2])), None):
        raise InputError(
            f"prompts file '{prompts}' names '{other}', but '{path}' has one frame: leave out the number."
        )
    return given[keys[0]]


def _frame_count(path: Path, max_pixels: int) -> int | None:
    """Return how many frames a file has; None where it cannot be read."""
    try:
        return open_frames(path, max_pixels).header.frames
    except InputError:
        return None


def _cine_record(
    record: dict[str, Any],
    frames: str,
    count: int,
    given: PromptsByName,
    prompts: str | os.PathLike[str] | None,
    pictures: Sequence[Path] = (),
) -> dict[str, Any]:
    """Return the record of a cine; a key of its prompts without a frame is of the first one.

    Args:
        record: ``image``, ``name`` and ``stem``.
        frames: ``all`` or ``A:B``.
        count: how many it has.
        given: all prompts.
        prompts: their file.
        pictures: of a folder, whose names may be keys, too.
    """
    path = Path(record["image"])
    chosen = list(choose_frames(frames, count, path))
    own: dict[int, list[ObjectPrompt]] = {}
    numbered = {nfc(picture.name): frame for frame, picture in enumerate(pictures)}
    for key, objects in given.items():
        name, mark, number = key.rpartition("#")
        if key in numbered:
            own[numbered[key]] = objects
        elif key in (nfc(record["name"]), nfc(path.name)):
            own.setdefault(chosen[0], objects)
        elif mark and number.isdigit() and name in (nfc(record["name"]), nfc(path.name)):
            own[int(number)] = objects
        elif pictures:
            raise InputError(f"prompts file '{prompts}' names '{key}', which is no frame of '{path}'.")
    for frame in own:
        if frame not in chosen:
            raise InputError(
                f"prompts file '{prompts}' has prompts for frame {frame} of '{path}', and the frames are "
                f"{chosen[0]} to {chosen[-1]}: correct the one or the other."
            )
    everything = [prompt for frame in sorted(own) for prompt in own[frame]]
    return {**record, "prompts": everything, "frames": chosen, "frame_prompts": own}


def _check_names(given: PromptsByName, names: Sequence[Path], prompts: str | os.PathLike[str]) -> None:
    """Refuse keys of the prompts file that name no file, or several."""
    known = {*(name.as_posix() for name in names), *(name.name for name in names)}
    check_names({_without_frame(key, known): objects for key, objects in given.items()}, known, prompts)
    shared = Counter(nfc(name.name) for name in names)
    for key in given:
        if shared[key] > 1 and key not in {nfc(name.as_posix()) for name in names}:
            first = next(name.as_posix() for name in names if nfc(name.name) == key)
            raise InputError(
                f"prompts file '{prompts}' names '{key}', of which there are {shared[key]}: "
                f"write each one's path in the folder, such as '{first}'."
            )


def _without_frame(key: str, names: set[str]) -> str:
    """Return the file's name of a key such as ``case.dcm#12``."""
    name, mark, frame = key.rpartition("#")
    return name if mark and frame.isdigit() and key not in {nfc(one) for one in names} else key


def check_dicom(records: Sequence[Mapping[str, Any]], output_ext: str) -> None:
    """Refuse to write masks as DICOM segmentations where no input is DICOM.

    Raises:
        InputError: masks are to be DICOM segmentations, and no input is DICOM.
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


def _list_files(source: Path, prompts: str | os.PathLike[str] | None, videos: bool) -> list[Path]:
    """List the images, and the videos where all frames are wanted."""
    if source.is_file():
        if is_video(source) and not videos:
            raise InputError(f"input '{source}' is a video: say which frames, as with --frames all.")
        if not is_input(source) and not is_video(source):
            raise InputError(f"input '{source}' is not an image: give one of {', '.join(INPUT_SUFFIXES)}.")
        return [source]
    if not source.is_dir():
        raise InputError(f"input '{source}' does not exist: give an image file or a folder of them.")
    files = list(walk(source))
    paths = sorted(path for path in files if is_input(path) or (videos and is_video(path)))
    if not paths:
        raise InputError(
            f"input '{source}' holds no image: give a folder with {', '.join(INPUT_SUFFIXES)} or DICOM files."
        )
    own = None if prompts is None else Path(prompts).resolve()
    _note_others([path for path in files if path not in set(paths) and path.resolve() != own], source)
    return paths


def walk(source: Path) -> Iterator[Path]:
    """Yield the files of a folder and then of its subfolders; hidden files and results are left out."""

    def refuse(error: OSError) -> None:
        raise InputError(
            f"input '{error.filename}' cannot be read ({error.strerror}): give a readable folder."
        ) from error

    for name, folders, files in os.walk(source, onerror=refuse):
        here = Path(name)
        if ("objects.csv" in files or "objects" in folders) and {"masks", "overlays"} & set(folders):
            if here != source:
                folders.clear()
                continue
            folders[:] = [folder for folder in folders if folder not in ("masks", "overlays", "objects")]
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        yield from (here / file for file in files if not file.startswith("."))


def _note_others(paths: Sequence[Path], source: Path) -> None:
    """Log which files of a folder are left out because their format is not read."""
    if not paths:
        return
    kinds = Counter(path.suffix.lower() or "no suffix" for path in paths)
    counted = ", ".join(f"{count} with {kind}" for kind, count in kinds.most_common(6))
    named = ", ".join(f"'{written_name(path.relative_to(source))}'" for path in sorted(paths)[:MAX_NAMED])
    more = f" and {len(paths) - MAX_NAMED} more" if len(paths) > MAX_NAMED else ""
    logger.warning("%d file(s) are left out (%s): %s%s.", len(paths), counted, named, more)
    videos = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        logger.warning(
            "%d of them are videos, such as '%s': --frames all segments them, too.",
            len(videos),
            written_name(videos[0].relative_to(source)),
        )
