"""The images of a job, one after the other: of a folder with its subfolders, of a manifest, or one file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from lmsfe_sam.batch.storage import filesystem, unreadable
from lmsfe_sam.errors import InputError
from lmsfe_sam.files import check_is_file
from lmsfe_sam.images.formats import INPUT_SUFFIXES, check_name, is_input, known_suffix, stem
from lmsfe_sam.inference.inputs import unique_stems, walk
from lmsfe_sam.prompts.prompt import ObjectPrompt
from lmsfe_sam.prompts.prompts_file import PromptsByName, check_names, nfc

MANIFESTS = (".parquet", ".csv", ".jsonl", ".ndjson")
BOX, CLICK = ("x0", "y0", "x1", "y1"), ("x", "y")
COLUMNS = frozenset({"image", "name", "slice", "objects", "label", *BOX, *CLICK})
BATCH_ROWS = 1024


@dataclass(frozen=True)
class Source:
    """One image to segment.

    Attributes:
        image: what the input calls it, in a folder its path below it; ``#K`` is added to name slice K.
        url: where it is read.
        name: of its results, without a suffix; it may have folders.
        objects: its prompts as JSON, a list as in a prompts file; empty for none.
        slice: of a file that has several, or None.
        version: changes with the file's content, as far as its listing tells; else empty.
    """

    image: str
    url: str
    name: str
    objects: str = ""
    slice: int | None = None
    version: str = ""

    @property
    def key(self) -> str:
        """A word that changes with all that this image's result depends on."""
        content = [self.image, self.url, self.name, self.objects, self.slice, self.version]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def read_sources(source: str, prompts: PromptsByName, excluded: str = "") -> Iterator[Source]:
    """Yield the images of a folder, of a manifest (`MANIFESTS`) or of one image file.

    Args:
        source: path or URL.
        prompts: of images by file name or, below a folder, by path; a manifest's own come first.
        excluded: path of a folder that is not searched, such as the output's.

    Raises:
        InputError: there is no such file or folder, it cannot be read, a manifest has a row without an image
            or an unknown column, or prompts name an image that is not there.
    """
    system, root = filesystem(source)
    try:
        is_folder, exists = system.isdir(root), system.exists(root)
    except Exception as error:  # each file system raises its own
        raise unreadable(source, error) from error
    if not exists:
        raise InputError(f"input '{source}' does not exist: give an image, a folder, a manifest or a URL.")
    if is_folder:
        found = _folder(system, root, source, excluded)
    elif root.lower().endswith(MANIFESTS):
        found = read_manifest(system, root, source)
    elif known_suffix(Path(root)) or (_is_local(system) and is_input(Path(root))):
        name = PurePosixPath(root).name
        found = iter([Source(name, source, stem(Path(name)), version=_version(system.info(root)))])
    else:
        known = ", ".join((*MANIFESTS, *INPUT_SUFFIXES))
        raise InputError(f"input '{source}' is no folder, manifest or image: give one of {known}.")
    return _with_prompts(found, prompts)


def _with_prompts(found: Iterable[Source], prompts: PromptsByName) -> Iterator[Source]:
    """Give each image without prompts of its own those that are given by its path or file name."""
    used: Counter[str] = Counter()
    for source in found:
        name = nfc(source.image)
        if name not in prompts:
            name = nfc(PurePosixPath(source.url).name)
        if name in prompts:
            used[name] += 1
            if used[name] > 1:
                raise InputError(
                    f"prompts name '{name}', of which there are several: write each one's path, such as "
                    f"'{source.image}'."
                )
            source = replace(source, objects=source.objects or _as_json(prompts[name]))
        yield source
    check_names(prompts, used, "--prompts")


def _as_json(objects: Iterable[ObjectPrompt]) -> str:
    return json.dumps(
        [
            {
                **({"box": prompt.box} if prompt.box else {}),
                **({"points": prompt.points, "labels": prompt.labels} if prompt.points else {}),
            }
            for prompt in objects
        ]
    )


def _folder(system: Any, root: str, source: str, excluded: str) -> Iterator[Source]:
    """Yield the images of a folder and its subfolders, folder by folder."""
    count = 0
    folders = _local_files(Path(root), excluded) if _is_local(system) else _files(system, root, excluded)
    try:
        for below, files in folders:
            stems = unique_stems([Path(name) for name in files])
            for name in sorted(files):
                count += 1
                image = f"{below}/{name}".lstrip("/")
                url = f"{source.rstrip('/')}/{image}" if "://" in source else f"{root}/{image}"
                yield Source(image, url, f"{below}/{stems[Path(name)]}".lstrip("/"), version=files[name])
    except InputError:
        raise
    except Exception as error:  # each file system raises its own
        raise unreadable(source, error) from error
    if not count:
        raise InputError(f"input '{source}' holds no image: give a folder with {', '.join(INPUT_SUFFIXES)}.")


def _local_files(root: Path, excluded: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each folder, as a path below the root, with the versions of its images by name."""
    for folder, paths in groupby(walk(root), lambda path: path.parent):
        if excluded and folder.is_relative_to(excluded):
            continue
        below = folder.relative_to(root).as_posix()
        images = [path for path in paths if is_input(path)]
        for path in images:
            check_name(path)
        files = {path.name: _status(path) for path in images}
        yield "" if below == "." else below, files


def _files(system: Any, root: str, excluded: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Do the same on another file system, where files without a suffix are left out."""
    for folder, subfolders, files in system.walk(root, detail=True):
        for name in [*subfolders]:
            if name.startswith(".") or subfolders[name]["name"].rstrip("/") == excluded:
                del subfolders[name]
        yield (
            folder[len(root) :].strip("/"),
            {
                name: _version(info)
                for name, info in files.items()
                if not name.startswith(".") and known_suffix(Path(name))
            },
        )


def _is_local(system: Any) -> bool:
    return "file" in system.protocol


def _version(info: Mapping[str, Any]) -> str:
    changed = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("created") or ""
    return f"{info.get('size')} {changed}"


def _status(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:  # reading it says why
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def read_manifest(system: Any, path: str, source: str) -> Iterator[Source]:
    """Yield the images of a manifest; rows of one image that follow each other are its objects.

    Columns, of which only ``image`` must be there: ``image``, a URL, or a path that is absolute or below the
    manifest's folder; ``objects``, a list as in a prompts file, or such a list as JSON text; ``x0``, ``y0``,
    ``x1``, ``y1``, a box; ``x``, ``y`` and ``label`` (1 if left out), a click; ``slice``; ``name``, of the
    results, by default the image's path without its suffix.

    Raises:
        InputError: see `read_sources`.
    """
    folder = source[: -len(PurePosixPath(path).name)].rstrip("/")
    local = _is_local(system)
    pending: dict[str, Any] = {}
    objects: list[Any] = []
    for number, row in enumerate(_rows(system, path, source), 1):
        row = {key: value for key, value in row.items() if value not in (None, "") and value == value}
        unknown = set(row) - COLUMNS
        image = row.get("image")
        if not isinstance(image, str):
            raise InputError(f"manifest '{source}', row {number} names no image: give a column 'image'.")
        if unknown:
            raise InputError(
                f"manifest '{source}', row {number} has the unknown column '{min(map(str, unknown))[:60]}': "
                f"the columns are {', '.join(sorted(COLUMNS))}."
            )
        own, more = _objects(row)
        same = pending and all(pending.get(key) == row.get(key) for key in ("image", "slice", "name"))
        if pending and not same:
            yield _source(pending, objects, folder, local, source)
        if not same:
            pending, objects = row, []
        if isinstance(own, list) and isinstance(objects, list):
            objects += [*own, *more]
        else:
            objects = own
    if not pending:
        raise InputError(f"manifest '{source}' has no row: name an image in each.")
    yield _source(pending, objects, folder, local, source)


def _objects(row: Mapping[str, Any]) -> tuple[Any, list[Any]]:
    """Return a row's list of objects, or what stands in its place, and the object of its flat columns."""
    given = row.get("objects", [])
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return given, []
    if isinstance(given, Mapping) and set(given) == {"objects"}:
        given = given["objects"]
    if isinstance(given, list):
        given = [_without_none(item) for item in given]
    flat: dict[str, Any] = {}
    if any(name in row for name in BOX):
        flat["box"] = [_number(row.get(name)) for name in BOX]
    if any(name in row for name in CLICK):
        flat["points"] = [[_number(row.get(name)) for name in CLICK]]
        flat["labels"] = [_number(row.get("label", 1))]
    return given, [flat] if flat else []


def _without_none(item: Any) -> Any:
    return (
        {key: value for key, value in item.items() if value is not None} if isinstance(item, dict) else item
    )


def _number(value: Any) -> Any:
    """Return a cell of a CSV file as a number, if it is one."""
    if not isinstance(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return int(number) if number.is_integer() else number


def _source(row: Mapping[str, Any], objects: Any, folder: str, local: bool, source: str) -> Source:
    image = row["image"]
    absolute = "://" in image or image.startswith("/") or Path(image).is_absolute()
    url = image if absolute or not folder else f"{folder}/{image}"
    index = _number(row.get("slice"))
    if index is not None and (isinstance(index, bool) or not isinstance(index, int) or index < 0):
        raise InputError(f"manifest '{source}', image '{image}' has the slice {index!r}: give 0, 1, 2, ...")
    version = _status(Path(url)) if local and "://" not in url else ""
    given = row.get("name")
    parts = PurePosixPath(str(given) if given is not None else image.partition("://")[2] or image).parts
    plain = [part for part in parts if part not in ("/", "..", ".")]
    if given is not None and (not plain or list(parts) != plain):
        raise InputError(
            f"manifest '{source}', image '{image}' has the name '{given}': give a path without '..'."
        )
    if given is None:
        suffix = "" if index is None else f"_f{index}"
        plain[-1:] = [stem(Path(plain[-1])) + suffix] if plain else ["image"]
    image = image if index is None else f"{image}#{index}"
    return Source(image, url, "/".join(plain), json.dumps(objects) if objects else "", index, version)


def _rows(system: Any, path: str, source: str) -> Iterator[dict[str, Any]]:
    if _is_local(system):
        check_is_file(Path(path), f"manifest '{source}'", f"a file ({', '.join(MANIFESTS)})")
    try:
        if path.lower().endswith(".parquet"):
            yield from _parquet_rows(system, path)
            return
        with system.open(path, "rb") as binary:
            text = io.TextIOWrapper(binary, encoding="utf-8-sig", newline="")
            if path.lower().endswith(".csv"):
                for row in csv.DictReader(text, strict=True):
                    if None in row:
                        raise ValueError(
                            f"the row of '{next(iter(row.values()))}' has more cells than columns"
                        )
                    yield row
            else:
                for line in text:
                    if line.strip():
                        yield dict(json.loads(line).items())
    except InputError:
        raise
    except (AttributeError, TypeError) as error:
        raise InputError(f"manifest '{source}' has a line that is no JSON object: give one each.") from error
    except Exception as error:  # each reader raises its own
        raise unreadable(source, error) from error


def _parquet_rows(system: Any, path: str) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    with system.open(path, "rb") as file:
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=BATCH_ROWS):
            yield from batch.to_pylist()
