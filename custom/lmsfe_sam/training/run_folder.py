"""The folder of a run: its options, its split and its log, and whether the run can be resumed."""

from __future__ import annotations

import csv
import json
import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from lmsfe_sam.data.datalist import SECTIONS, DataList
from lmsfe_sam.distributed import launch_id, restart_count
from lmsfe_sam.errors import InputError, short_repr
from lmsfe_sam.files import (
    LARGEST_LIST,
    LockedLog,
    atomic_write,
    close_logs,
    ensure_folder,
    read_text,
    remove_leftovers,
)
from lmsfe_sam.model.checkpoints import seal_weights
from lmsfe_sam.settings import config_files, given_keys
from lmsfe_sam.stopping import Stopped
from lmsfe_sam.version import __version__

logger = logging.getLogger(__name__)

HISTORY = "history.csv"
SETTINGS = "run.json"
DATALIST = "datalist.json"
LAST = "checkpoint_last.pt"
BEST = "model.pt"
LOG = "training.log"

HISTORY_COLUMNS = (
    "epoch",
    "loss",
    "val_dice",
    "val_dice_box",
    "val_dice_point",
    "val_dice_none",
    "lr",
    "seconds",
)
"""Columns of ``history.csv``; one row an epoch."""

MAY_CHANGE = frozenset(
    {
        *("epochs", "demonstration_epochs", "full_epochs", "patience", "num_workers", "threads"),
        "max_minutes",
        "max_pixels",
        *("device", "amp", "mlflow", "resume", "output_dir"),
    }
)
"""Options that a resumed run may be given other values of."""

PATHS = frozenset({"dataset_dir", "pretrained", "backbone_weights", "teachers"})


class RunFolder:
    """The folder that a training run writes into.

    Args:
        output_dir: where a new run writes.
        resume: the folder of a run to resume; it writes there, too, unless the command line names
            an ``output_dir`` of its own.
        settings: the run's options; a resumed run must have the same, but for `MAY_CHANGE`.
        main_process: False in the helpers of a distributed run, which write nothing.

    Attributes:
        restarted: whether torchrun started these processes again after some had ended. They go on from the
            folder's last checkpoint, if there is one, as if ``resume`` had named the folder.

    Raises:
        InputError: the folder cannot be written to or holds another run's results; there is nothing to
            resume, or it was started with other settings.
    """

    def __init__(
        self,
        output_dir: str,
        resume: str | None,
        settings: Mapping[str, Any],
        main_process: bool = True,
    ) -> None:
        self.settings = {key: _plain(key, value) for key, value in settings.items()}
        self.source = Path(resume) if resume else None
        self.main_process = main_process
        chosen = "output_dir" in given_keys() or self.source is None
        self.path = ensure_folder(output_dir if chosen else str(self.source), "output_dir")
        self.restarted = self._belongs_to_this_launch()
        if self.restarted:
            self.source = self.path
            logger.info("These processes were started again: the run in '%s' goes on.", self.path)
        if self.source is not None:
            self._check_settings(self.source)
        if not main_process:
            return
        log = LockedLog(self.path / LOG, "training")
        try:
            if self.source is None:
                self._remove_demonstration(log)
            remove_leftovers(self.path)
            self._write_settings()
        except BaseException:
            log.close()
            raise
        logging.getLogger("lmsfe_sam").addHandler(log)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def last_checkpoint(self) -> Path | None:
        """The checkpoint to resume from, or None in a new run."""
        return self.source / LAST if self.source else None

    def _belongs_to_this_launch(self) -> bool:
        """Whether the folder's checkpoint was written by earlier processes of the same torchrun."""
        if not (self.path / LAST).is_file():
            return False
        if restart_count() > 0:
            return True
        # Processes that come or go make torchrun start all of them again, too, and that does not count.
        launch = launch_id()
        try:
            return launch is not None and _read_object(self.path, SETTINGS).get("launch") == launch
        except InputError:
            return False

    def _check_settings(self, source: Path) -> None:
        if not (source / LAST).is_file():
            raise InputError(
                f"resume '{source}' holds no {LAST}: name the folder of a training run that has finished "
                "at least one epoch."
            )
        before = _read_settings(source)
        version = str(_read_object(source, SETTINGS).get("version"))[:20]
        if unknown := before.keys() - self.settings.keys():
            raise InputError(
                f"resume '{source}' was started by version {version}, with options that this version "
                f"({__version__}) does not have ({', '.join(sorted(unknown)[:6])}): resume it with that "
                "version, or start a new run."
            )
        if new := self.settings.keys() - before.keys():
            logger.warning(
                "'%s' was started by version %s, which had no option %s: what is given now counts.",
                source,
                version,
                ", ".join(sorted(new)),
            )
        for key, value in self.settings.items():
            if key not in MAY_CHANGE and before.get(key, value) != value:
                raise InputError(
                    f"resume '{source}' was started with {key} {short_repr(before[key])}, not "
                    f"{short_repr(value)}: repeat the options that it was started with, or start a new run."
                )

    def _remove_demonstration(self, log: LockedLog) -> None:
        """Take a finished demonstration out of the way; refuse to do so with anything else."""
        if not (self.path / HISTORY).is_file():
            return
        if not self._is_demonstration():
            raise InputError(
                f"output_dir '{self.path}' holds the results of a run already: go on with it by "
                f"--resume {self.path}, or name another folder with --output_dir."
            )
        logger.info("The demonstration that '%s' held is replaced.", self.path)
        names = (HISTORY, SETTINGS, DATALIST, LAST, BEST, "model.json")
        events = (self.path / "tensorboard").glob("events.out.tfevents.*")
        for file in (*(self.path / name for name in names), *events):
            file.unlink(missing_ok=True)
        log.empty()

    def _is_demonstration(self) -> bool:
        """Whether the folder is known to hold phantoms' results; what cannot be read is left alone."""
        try:
            return _read_settings(self.path).get("dataset_dir", "unknown") is None
        except InputError:
            return False

    def _write_settings(self) -> None:
        with atomic_write(self.path / SETTINGS) as temporary:
            content = {"version": __version__, "launch": launch_id(), "settings": self.settings}
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def close(self) -> None:
        """Stop writing the log of this run, and of any run before it in this process."""
        close_logs()


def _read_object(source: Path, name: str) -> dict[str, Any]:
    """Read a JSON object of a run that is resumed.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        content = json.loads(read_text(source / name, most=LARGEST_LIST))
    except FileNotFoundError as error:
        raise _missing_file(source, name, "is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _missing_file(source, name, "is damaged") from error
    if not isinstance(content, dict):
        raise _missing_file(source, name, "is damaged")
    return content


def _read_settings(source: Path) -> dict[str, Any]:
    settings = _read_object(source, SETTINGS).get("settings")
    if not isinstance(settings, dict):
        raise _missing_file(source, SETTINGS, "is damaged")
    return settings


def _missing_file(source: Path, name: str, what: str) -> InputError:
    return InputError(
        f"resume '{source}' cannot be gone on with, as its {name} {what}: "
        "put the file back, or start a new run."
    )


def write_history(folder: RunFolder, rows: list[dict[str, Any]]) -> None:
    """Write ``history.csv`` anew: a reader never sees half a row."""
    with atomic_write(folder / HISTORY) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, HISTORY_COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_datalist(datalist: DataList, folder: RunFolder) -> None:
    """Write ``datalist.json``; a resumed run must find the images that it was started with.

    Raises:
        InputError: a resumed run's images or their split have changed.
    """
    if folder.source is not None:
        before = _read_object(folder.source, DATALIST)
        for part, section in SECTIONS.items():
            try:
                names = [record["name"] for record in before[section]]
            except (KeyError, TypeError) as error:
                raise _missing_file(folder.source, DATALIST, "is damaged") from error
            if names != [record["name"] for record in datalist.listed(part)]:
                raise InputError(
                    f"resume '{folder.source}' was started with other {section} images than dataset_dir "
                    "holds now: put the same files back, or start a new run."
                )
    if not folder.main_process:
        return
    if datalist.layout != "phantoms":
        datalist.write(folder / DATALIST)
        return
    content = {section: datalist.records[part] for part, section in SECTIONS.items()}
    with atomic_write(folder / DATALIST) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def run(trainer: Any, folder: RunFolder) -> None:
    """Run the trainer, log where the weights are, and close the run's log, however the run ends.

    Raises:
        Stopped: a signal asked the run to end; the message says what is finished, and how to go on.
    """
    try:
        trainer.run()
        if folder.main_process:
            if (folder / BEST).is_file():
                seal_weights(folder / BEST)
            logger.info("%s", closing_line(folder))
    except Stopped as stopped:
        raise Stopped(stopped.number, _stopped_line(trainer, folder)) from None
    finally:
        folder.close()


def _stopped_line(trainer: Any, folder: RunFolder) -> str:
    """Return how far the checkpoint of a run is that was stopped."""
    if not (folder / LAST).is_file():
        return "No epoch is finished: the same command starts anew."
    with (folder / HISTORY).open(newline="", encoding="utf-8") as file:
        done = sum(1 for _ in csv.DictReader(file))
    total = trainer.state.max_epochs
    return f"{done} of {total} epochs are finished: the same command with --resume {folder.path} goes on."


def closing_line(folder: RunFolder) -> str:
    """Return where the best weights of a finished run are, and the command that evaluates them."""
    weights = folder / BEST
    given = given_keys()
    configs = ["configs/train.json", "configs/evaluate.json", *_network_configs(given)]
    options = ["--checkpoint", str(weights)]
    for key in ("network_def", "prompt_form"):
        options += [f"--{key}", given[key]] if key in given else []
    content = json.loads((folder / DATALIST).read_text(encoding="utf-8"))
    if "layout" in content:  # else phantoms, which are not read from files
        split = "test" if content[SECTIONS["test"]] else "val"
        options += ["--dataset_dir", str(folder / DATALIST), "--split", split]
    else:
        drawn_by = {key: folder.settings.get(key) for key in ("phantoms", "seed", "split_seed")}
        options += [f"--{key}={value}" for key, value in drawn_by.items() if value is not None]
    files = ",".join(map(repr, configs))
    command = f'python -m monai.bundle run evaluating --config_file "[{files}]" {shlex.join(options)}'
    return f"The best weights are in {weights}. To evaluate them:\n    {command}"


def _network_configs(given: Mapping[str, str]) -> list[str]:
    """Return the config files beside ``train.json`` that name a network: evaluation needs them, too."""
    files = config_files(given.get("config_file", ""))[1:]
    return [name for name in files if "network_def" in ConfigParser.load_config_file(name)]


def _plain(key: str, value: Any) -> Any:
    """Return a setting as JSON gives it back, paths absolute."""
    if key in PATHS and value is not None:
        if isinstance(value, list):
            return [_plain(key, one) for one in value]
        return str(Path(value).expanduser().resolve())
    return json.loads(json.dumps(value))
