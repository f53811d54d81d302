"""From the ``input`` and ``prompts`` of the command line to one record an image."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from lmsfe_sam.errors import InputError
from lmsfe_sam.inference.formats import INPUT_SUFFIXES, is_input, stem
from lmsfe_sam.options import InferenceOptions, check_options
from lmsfe_sam.prompts.prompts_file import check_names, read_prompts
from lmsfe_sam.settings import check_device


def check_settings(device: Any, **values: Any) -> None:
    """Check the options of the inference config.

    Raises:
        InputError: the first value that cannot be right.
    """
    check_options(InferenceOptions, values)
    check_device(device)


def find_inputs(
    source: str | os.PathLike[str] | None, prompts: str | os.PathLike[str] | None = None
) -> list[dict[str, Any]]:
    """List the images to segment, with their prompts.

    Args:
        source: a file, or a folder whose images (not those of its subfolders) are taken; None gives
            an empty list.
        prompts: a prompts file, or None.

    Returns:
        A record an image: ``image`` (path), ``name`` (file name), ``stem`` (of its results, unique),
        ``prompts`` (a list of `ObjectPrompt`, empty where the file has no entry).

    Raises:
        InputError: there is no such file or no image in the folder, or the prompts file has an
            error or names a file that is not there.
    """
    given = {} if prompts is None else read_prompts(prompts)
    if source is None:
        return []
    paths = _list_files(Path(source))
    if prompts is not None:
        neighbours = paths if Path(source).is_dir() else Path(source).parent.iterdir()
        check_names(given, (path.name for path in neighbours), prompts)
    stems = unique_stems(paths)
    return [
        {"image": str(path), "name": path.name, "stem": stems[path], "prompts": given.get(path.name, [])}
        for path in paths
    ]


def unique_stems(paths: list[Path]) -> dict[Path, str]:
    """Name the results of each input: its stem, or its whole name where inputs share a stem.

    Upper and lower case count as the same, as they are on some file systems.
    """
    shared = Counter(stem(path).casefold() for path in paths)
    names: dict[Path, str] = {}
    taken = {name for name, count in shared.items() if count == 1}
    for path in paths:
        name = stem(path)
        if shared[name.casefold()] > 1:
            name, number = path.name, 1
            while name.casefold() in taken:
                number += 1
                name = f"{path.name}-{number}"
            taken.add(name.casefold())
        names[path] = name
    return names


def _list_files(source: Path) -> list[Path]:
    if source.is_file():
        if not is_input(source):
            raise InputError(f"input '{source}' is no image: give one of {', '.join(INPUT_SUFFIXES)}.")
        return [source]
    if not source.is_dir():
        raise InputError(f"input '{source}' does not exist: give an image file or a folder of them.")
    try:
        paths = sorted(path for path in source.iterdir() if not path.name.startswith(".") and is_input(path))
    except OSError as error:
        raise InputError(
            f"input '{source}' cannot be read ({error.strerror}): give a readable folder."
        ) from error
    if not paths:
        raise InputError(
            f"input '{source}' holds no image (subfolders are not searched): "
            f"give a folder with {', '.join(INPUT_SUFFIXES)} or DICOM files."
        )
    return paths
