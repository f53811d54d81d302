"""The output folder of an inference run: its table, and which results another run may reuse."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lmsfe_sam.errors import InputError
from lmsfe_sam.files import append_whole, atomic_write, ensure_folder, remove_leftovers, unwritable
from lmsfe_sam.journal import NAME, Entry, Journal, damaged
from lmsfe_sam.model.weights.checks import sha256
from lmsfe_sam.settings import RUN_ARGUMENTS, given_keys
from lmsfe_sam.version import __version__

logger = logging.getLogger(__name__)

TABLE = "objects.csv"
MASKS, OVERLAYS, UNCERTAINTY = "masks", "overlays", "uncertainty"

COLUMNS = (
    *("image", "object", "area_px", "area_mm2", "x0", "y0", "x1", "y1", "predicted_iou"),
    *("spacing_source", "frame"),
)
"""The columns of ``objects.csv``."""

WITHOUT_EFFECT = frozenset(
    {
        "prompts",
        "preset",
        "max_pixels",
        "output_dir",
        "device",
        "window_batch",
        "cached_embeddings",
        "dataset_dir",
        *("slice", "frames"),
    }
)
"""Options that change no mask; each image's own prompts and frames are in its key."""

_FRAME = re.compile(r"(.*)_f\d+")
"""The name of one frame's results."""


class Results:
    """Rows and files of finished images, from which a run that was stopped or killed is continued.

    An image counts as finished once its rows are in the journal (`lmsfe_sam.journal`), which is after its
    files are whole. A run with the same settings does the images that are not finished, or have changed, or
    whose files are gone. A run with other settings replaces all that the journal knows, and nothing else.

    Args:
        output_dir: of the run.
        options: of the run; those not in `WITHOUT_EFFECT` must be the same for it to be gone on with, and
            so must every other key on the command line, and the checkpoint's content.
    """

    def __init__(self, output_dir: str | os.PathLike[str], options: Mapping[str, Any]) -> None:
        self.folder = Path(output_dir)
        self.options = options
        self.journal: Journal | None = None
        self.keys: dict[str, str] = {}
        self.sources: set[str] = set()

    def start(self, records: Sequence[dict[str, Any]]) -> None:
        """Open the folder for these images, before the network is built.

        Where a record's ``stem`` has the results of another frame of its file, the frame's number is added.

        Raises:
            InputError: no input was named, the folder cannot be written to or is in use, or it holds results
                that no journal tells of.
        """
        if not records:
            raise InputError("input is missing: name an image file or a folder of them with --input.")
        given = Path(self.options["input"]).resolve()
        settings = {"input": str(given), **mask_settings(self.options)}
        ensure_folder(self.folder, "output_dir")
        if not (self.folder / NAME).exists():
            self._refuse_unknown_results()
        self.journal = Journal(self.folder)
        try:
            if self.journal.events.settings == settings:
                self._keep_other_frames(self.journal, records)
            self.keys = {record["stem"]: _key(record) for record in records}
            remove_leftovers(self.folder)
            self._clear(self.journal, settings)
            self.write_table()
        except BaseException:
            self.close()
            raise
        objects = sum(len(record["prompts"]) for record in records if not self.is_done(record))
        logger.info("%s", self._plan(len(records), objects))

    def is_done(self, record: Mapping[str, Any]) -> bool:
        """Whether an image is finished."""
        return self.journal is not None and record["stem"] in self.journal.events.done

    def begin(self, stem: str, files: Sequence[str]) -> None:
        """Note which files of an image are about to be written."""
        if self.journal is not None:
            self.journal.begin(stem, files)

    def finish(self, stem: str, files: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        """Add an image's rows to the table, and note that its files are whole.

        Args:
            stem: of the image's results.
            files: of its results, relative to the folder.
            rows: an object each, with the keys `COLUMNS`.

        Raises:
            InputError: they cannot be written.
        """
        path = self.folder / TABLE
        try:
            with path.open("ab", buffering=0) as file:
                append_whole(file, format_rows(rows).encode(), path)
        except OSError as error:
            raise unwritable(path, error) from error
        if self.journal is not None:
            self.journal.finish(stem, Entry(self.keys[stem], tuple(files), [dict(row) for row in rows]))

    def write_table(self) -> None:
        """Write ``objects.csv`` anew: what is finished, in the order of the inputs.

        Raises:
            InputError: the file cannot be written, or the journal holds rows that are none.
        """
        rows = [row for stem in self._order() for row in self._done()[stem].rows]
        try:
            content = (",".join(COLUMNS) + "\n" + format_rows(rows)).encode()
        except (ValueError, AttributeError) as error:  # other columns, no rows at all, half of a character
            raise damaged(self.folder / NAME) from error
        with atomic_write(self.folder / TABLE) as temporary:
            temporary.write_bytes(content)

    def finished(self) -> list[str]:
        """Return the files of the finished images, in the order of the inputs."""
        return [file for stem in self._order() for file in self._done()[stem].files]

    def summary(self) -> str:
        """Return how many of the images are finished, and what does the rest."""
        if self.journal is None:
            return "Nothing was written yet."
        done, total = len(self.journal.events.done), len(self.keys)
        line = f"{done} of {total} images are finished in '{self.folder}'"
        return f"{line}." if done == total else f"{line}: the same command does the rest."

    def close(self) -> None:
        """Let other runs have the folder."""
        if self.journal is not None:
            self.journal.close()

    def _plan(self, total: int, objects: int) -> str:
        done = 0 if self.journal is None else len(self.journal.events.done)
        left = f"{total - done} image(s) with {objects} prompted object(s)"
        if not done:
            return f"Segmenting {left} into {self.folder}."
        if done == total:
            return f"All {total} image(s) are finished in {self.folder} already: nothing is left to do."
        return f"{done} of {total} image(s) are finished in {self.folder} already: segmenting {left}."

    def _clear(self, journal: Journal, settings: dict[str, Any]) -> None:
        """Remove what does not belong to this run: rows first, so that none is left without its mask."""
        before, events = journal.events.settings, journal.events
        if before != settings:
            if events.done:
                changed = [key for key in settings if (before or {}).get(key) != settings[key]]
                logger.warning(
                    "'%s' holds the results of %d image(s) from a run with other settings (%s): "
                    "they are replaced.",
                    self.folder,
                    len(events.done),
                    ", ".join(changed) or "fewer options",
                )
            files = events.files()
            remove_file(self.folder / TABLE)
            self._remove(files)
            journal.start(settings)
            return
        stale = {name for name, entry in events.done.items() if not self._is_current(name, entry)}
        files = [file for name in stale for file in events.done[name].files]
        files += [file for left in events.unfinished.values() for file in left]
        dropped = [*stale, *events.unfinished]
        entries = {name: events.done.pop(name) for name in stale}
        self.write_table()
        events.done.update(entries)
        self._remove(files)
        for name in dropped:
            journal.drop(name)

    def _done(self) -> dict[str, Entry]:
        return {} if self.journal is None else self.journal.events.done

    def _order(self) -> list[str]:
        """The finished images: earlier runs' other frames of the inputs, then the inputs."""
        done = self._done()
        return [
            *(stem for stem in done if stem not in self.keys),
            *(stem for stem in self.keys if stem in done),
        ]

    def _is_current(self, stem: str, entry: Entry) -> bool:
        if not all((self.folder / file).is_file() for file in entry.files):
            return False
        return self.keys[stem] == entry.key if stem in self.keys else self._is_other_frame(stem)

    def _keep_other_frames(self, journal: Journal, records: Sequence[dict[str, Any]]) -> None:
        for record in records:
            if "frame" not in record:
                continue
            self.sources.add(_without_frame(record["stem"]))
            entry = journal.events.done.get(record["stem"])
            frames = set() if entry is None else {str(row.get("frame")) for row in entry.rows}
            if frames - {str(record["frame"])}:
                record["stem"] += f"_f{record['frame']}"

    def _is_other_frame(self, stem: str) -> bool:
        """Whether results are of another frame of a file that is segmented now: these stay."""
        own = self.sources | {found[1] for key in self.keys if (found := _FRAME.fullmatch(key))}
        return _without_frame(stem) in own and stem not in self.keys

    def _remove(self, files: Sequence[str]) -> None:
        for file in files:
            remove_file(self.folder / file)

    def _refuse_unknown_results(self) -> None:
        """Refuse to overwrite files that may be the user's own, such as the true masks of a data set."""
        found = [self.folder / TABLE] if (self.folder / TABLE).exists() else []
        for name in (MASKS, OVERLAYS):
            folder = self.folder / name
            found += [path for path in folder.iterdir() if path.name[:1] != "."] if folder.is_dir() else []
        if found:
            raise InputError(
                f"output_dir '{self.folder}' holds '{found[0].relative_to(self.folder)}', which no run of "
                f"inference noted in '{NAME}': move it away, or name another folder with --output_dir."
            )


def _without_frame(stem: str) -> str:
    found = _FRAME.fullmatch(stem)
    return found[1] if found else stem


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of ``objects.csv``, without the header."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def remove_file(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        InputError: it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def _cell(value: Any) -> str:
    if value is None or value != value:  # NaN: unknown
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def mask_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that masks depend on beside the images and their prompts, as JSON gives it back."""
    settings = {key: value for key, value in options.items() if key not in {*WITHOUT_EFFECT, "input"}}
    checkpoint = Path(settings.pop("checkpoint"))
    settings["checkpoint"] = sha256(checkpoint) if checkpoint.is_file() else str(checkpoint)
    others = {*RUN_ARGUMENTS, *WITHOUT_EFFECT, *options}
    settings["command_line"] = {key: value for key, value in given_keys().items() if key not in others}
    settings["version"] = __version__
    plain: dict[str, Any] = json.loads(json.dumps(settings, default=str))
    return plain


def _key(record: Mapping[str, Any]) -> str:
    """Return a word that changes with an image's file, its prompts or the name of its results."""
    try:
        status = Path(record["image"]).stat()
    except OSError:  # reading it says why
        return ""
    prompts = [asdict(prompt) for prompt in record["prompts"]]
    frames = record.get("frame"), str(record.get("frames")), sorted(record.get("frame_prompts", {}))
    content = [record["name"], record["stem"], status.st_size, status.st_mtime_ns, prompts, *frames]
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:32]
