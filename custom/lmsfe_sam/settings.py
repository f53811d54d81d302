"""Check what a user typed on a bundle's command line before anything is built."""

from __future__ import annotations

import ast
import difflib
import inspect
import logging
import pydoc
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmsfe_sam.errors import InputError, plain_errors
from lmsfe_sam.options import SECTIONS

logger = logging.getLogger(__name__)

RUN_ARGUMENTS = (
    "run_id",
    "init_id",
    "final_id",
    "meta_file",
    "config_file",
    "logging_file",
    "tracking",
    "args_file",
    "workflow_type",
    "properties_path",
)
"""What `monai.bundle run` itself takes; every other key overrides a config."""

PATHS = (
    *("input", "prompts", "dataset_dir", "predictions", "output_dir", "checkpoint", "pretrained", "resume"),
    *("backbone_weights", "teachers", "compare", "bundle_root"),
)
"""Options that are paths: what is typed is a name, and no expression, reference or number."""

SIMILAR = 0.75
"""A hint needs `difflib`'s ratio of the two names to be this or more."""


def given_keys(arguments: Sequence[str] | None = None) -> dict[str, str]:
    """Return the ``--key value`` pairs of a command line, keys as the config spells them.

    Args:
        arguments: the words of the command line; by default those of this process, and none if it is
            not a ``python -m monai.bundle`` call.
    """
    words = _bundle_arguments() if arguments is None else list(arguments)
    pairs: dict[str, str] = {}
    for index, word in enumerate(words):
        if not _is_flag(word):
            continue
        key, equals, value = word.lstrip("-").partition("=")
        if not equals:
            following = words[index + 1] if index + 1 < len(words) else "True"
            value = "True" if _is_flag(following) else following
        pairs[key.replace("-", "_")] = value
    return pairs


def _is_flag(word: str) -> bool:
    """Whether Python Fire takes a word for a key: two dashes, or one before a letter."""
    return word.startswith("--") or (word[:1] == "-" and word[1:2].isalpha())


def plain_errors_of_command() -> None:
    """Print errors as sentences and answer signals with one, if this process is a ``monai.bundle`` command.

    In any other program, which runs the bundle with `ConfigWorkflow`, signals and uncaught errors stay that
    program's own.
    """
    if _bundle_arguments():
        plain_errors()


def check_paths(pairs: Mapping[str, str]) -> None:
    """Refuse paths that would not be taken as they are typed.

    MONAI runs what begins with ``$`` as Python and writes ``::`` for each ``#``, and Python Fire makes
    20230105 of the folder ``2023_01_05``. What begins with ``%`` MONAI resolves before this is called.

    Args:
        pairs: keys and values as `given_keys` returns them.

    Raises:
        InputError: such a path; the remedy is to begin it with ``./``, or for ``#`` another name.
    """
    from fire.parser import DefaultParseValue

    for key in PATHS:
        if key not in pairs:
            continue
        typed = pairs[key]
        parsed = DefaultParseValue(typed)
        several = isinstance(parsed, list | tuple) and typed[:1] in ("[", "(")
        for part in parsed if several else [typed]:
            if isinstance(part, str) and part[:1] in ("$", "@", "%"):
                raise InputError(
                    f"--{key} '{part}' begins with {part[0]}, which would not be taken for a name: "
                    f"write './{part}'."
                )
            if isinstance(part, str) and "#" in part:
                raise InputError(
                    f"--{key} '{part}' holds #, which MONAI's configs take for a sign of their own: rename "
                    "it, or change into that folder and give '.' or a name in it."
                )
        whole = several or parsed is None or isinstance(parsed, bool)
        if not whole and parsed != typed.strip("\"'"):
            raise InputError(f"--{key} {typed} would be read as {parsed!r}: write ./{typed}.")


def check_command_line(arguments: Sequence[str] | None = None) -> None:
    """Refuse a key or a run that no config has: MONAI would ignore either without a word.

    Args:
        arguments: as in `given_keys`.

    Raises:
        InputError: a key or a run is unknown; the message names a similar one that exists.
    """
    words = _bundle_arguments() if arguments is None else list(arguments)
    pairs = given_keys(words)
    check_paths(pairs)
    if "config_file" not in pairs:
        return
    name = pairs["config_file"]
    config = _read_configs(name)
    if words[0] == "run":
        positional = words[1] if len(words) > 1 and not words[1].startswith("--") else None
        _check_run(config, pairs.get("run_id", positional), name)
    for key in pairs:
        path = key.replace("::", "#").split("#")
        if path[0] in RUN_ARGUMENTS:
            continue
        if path[0] not in config:
            raise InputError(f"--{key} is not an option of {name}: {_remedy(path[0], config)}")
        # A root that is given anew as a whole need not have what the config's has.
        if len(path) > 1 and path[0] not in pairs:
            _check_nested(config, path, key, name)


def framed(*lines: str) -> str:
    """Return lines in a frame of asterisks, for what must not be overlooked in a log."""
    width = max(map(len, lines)) + 4
    frame = "*" * width
    return "\n".join((frame, *(f"* {line:<{width - 4}} *" for line in lines), frame))


def _bundle_arguments() -> list[str]:
    program = Path(sys.argv[0] if sys.argv else "").parts
    is_bundle_call = program[-3:-1] == ("monai", "bundle") or program[-2:] == ("-m", "monai.bundle")
    return sys.argv[1:] if is_bundle_call else []


def config_files(config_file: str) -> list[str]:
    """Return the names in ``--config_file``: one file, several with commas, or a list as Python writes it."""
    try:
        files = ast.literal_eval(config_file)
    except (ValueError, SyntaxError):
        files = config_file.split(",")
    return list(files) if isinstance(files, list | tuple) else [files]


def _read_configs(config_file: str) -> dict[str, Any]:
    """Return the content of config files, merged."""
    from monai.bundle import ConfigParser

    return ConfigParser.load_config_files(config_files(config_file))


def _check_run(config: Mapping[str, Any], run_id: str | None, name: str) -> None:
    runs = [key for key, value in config.items() if key != "imports" and _is_run(value)]
    if run_id is None or run_id in runs:
        return
    shown = [key for key in runs if key not in ("initialize", "finalize")]
    raise InputError(f"'{run_id}' is not a run of {name}: give one of {', '.join(shown)}.")


def _is_run(value: Any) -> bool:
    """Whether a config's value is a list of expressions, or the name of one."""
    if isinstance(value, str):
        return value.startswith("%")
    steps = value if isinstance(value, list) else []
    return bool(steps) and all(isinstance(step, str) and step[:1] in ("$", "@") for step in steps)


def _check_nested(config: Mapping[str, Any], path: Sequence[str], key: str, name: str) -> None:
    """Refuse a nested key whose parent is not there, or is a component that takes no such argument."""
    parent: Any = config
    for part in path[:-1]:
        if isinstance(parent, list) and part.isdigit() and int(part) < len(parent):
            parent = parent[int(part)]
        elif isinstance(parent, dict) and part in parent:
            parent = parent[part]
        else:
            raise InputError(f"--{key} is not an option of {name}: there is no {part} in it.")
    if not isinstance(parent, dict) or "_target_" not in parent:
        return
    arguments = _arguments(str(parent["_target_"]))
    if arguments is None or path[-1] in {*arguments, *parent} or path[-1].startswith("_"):
        return
    near = _similar(path[-1], {*arguments, *parent})
    raise InputError(
        f"--{key} is not an option of {name}: {parent['_target_']} takes no {path[-1]}"
        + (f", did you mean --{'#'.join([*path[:-1], near])}?" if near else ".")
    )


def _arguments(target: str) -> set[str] | None:
    """Return the names of a component's arguments, or None where it takes any or is not found."""
    from monai.bundle import ComponentLocator
    from monai.bundle.config_item import ConfigComponent

    found = ConfigComponent({"_target_": target}, locator=ComponentLocator()).resolve_module_name()
    component = pydoc.locate(found) if isinstance(found, str) else found
    try:
        parameters = inspect.signature(component).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def _remedy(key: str, config: Mapping[str, Any]) -> str:
    near = _similar(key, config)
    if near:
        return f"did you mean --{near}?"
    for title, (schema, file) in SECTIONS.items():
        if key in schema.model_fields:
            return f"it belongs to {title.lower()} ({file})."
    return "see the keys at the top of the config file, or python -m lmsfe_sam.options."


def _similar(name: str, names: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, sorted(names), n=1, cutoff=SIMILAR)), None)
