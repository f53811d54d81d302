"""What a user typed on a bundle's command line: misspelt keys, and values of the wrong kind or range."""

from __future__ import annotations

import ast
import difflib
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lmsfe_sam.errors import InputError

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


def given_keys(arguments: Sequence[str] | None = None) -> dict[str, str]:
    """Return the ``--key value`` pairs of a command line, keys as the config spells them.

    Args:
        arguments: the words of the command line; by default those of this process, and none if it is
            not a ``python -m monai.bundle`` call.
    """
    words = _bundle_arguments() if arguments is None else list(arguments)
    pairs: dict[str, str] = {}
    for index, word in enumerate(words):
        if not word.startswith("--"):
            continue
        key, equals, value = word[2:].partition("=")
        if not equals:
            following = words[index + 1] if index + 1 < len(words) else "True"
            value = "True" if following.startswith("--") else following
        pairs[key.replace("-", "_")] = value
    return pairs


def check_command_line(arguments: Sequence[str] | None = None) -> None:
    """Refuse a key that no config has: MONAI would add it to the config and ignore it without a word.

    Args:
        arguments: as in `given_keys`.

    Raises:
        InputError: a key is unknown; the message names the nearest one that exists.
    """
    pairs = given_keys(arguments)
    if "config_file" not in pairs:
        return
    known = set(_config_keys(pairs["config_file"]))
    for key in pairs:
        root = key.replace("::", "#").split("#")[0]
        if root in known or root in RUN_ARGUMENTS:
            continue
        near = difflib.get_close_matches(root, sorted(known), n=1, cutoff=0.4)
        raise InputError(
            f"--{key} is no option of {pairs['config_file']}: "
            + (f"did you mean --{near[0]}?" if near else "see the keys at the top of the config file.")
        )


def _bundle_arguments() -> list[str]:
    program = Path(sys.argv[0] if sys.argv else "").parts
    is_bundle_call = program[-3:-1] == ("monai", "bundle") or program[-2:] == ("-m", "monai.bundle")
    return sys.argv[1:] if is_bundle_call else []


def _config_keys(config_file: str) -> Iterable[str]:
    """Return the top-level keys of a config file, or of a list of them written as Python would."""
    from monai.bundle import ConfigParser

    try:
        files = ast.literal_eval(config_file)
    except (ValueError, SyntaxError):
        files = config_file.split(",")
    for file in [files] if isinstance(files, str) else files:
        content = ConfigParser.load_config_file(file)
        yield from (key.lstrip("+~").split("#")[0].split("::")[0] for key in content)


Test = Callable[[Any], bool]


def whole(low: int, or_none: bool = False) -> tuple[Test, str]:
    """Accept an ``int`` of at least ``low``."""
    words = f"a whole number of at least {low}" + (" or null" if or_none else "")
    return lambda value: (or_none and value is None) or (_is(value, int) and value >= low), words


def real(
    low: float, high: float = math.inf, low_included: bool = False, or_none: bool = False
) -> tuple[Test, str]:
    """Accept a number in ``low..high``; ``low`` itself only where it is included, infinity never."""
    words = f"a number {'from' if low_included else 'above'} {low:g}"
    words += (f" up to {high:g}" if high < math.inf else "") + (" or null" if or_none else "")

    def passes(value: Any) -> bool:
        if value is None:
            return or_none
        is_number = (_is(value, int) or _is(value, float)) and math.isfinite(value)
        return is_number and (low < value <= high or (low_included and value == low))

    return passes, words


def true_or_false(or_none: bool = False) -> tuple[Test, str]:
    """Accept a ``bool``."""
    words = "True or False" + (" or null" if or_none else "")
    return lambda value: isinstance(value, bool) or (or_none and value is None), words


def text(or_none: bool = False) -> tuple[Test, str]:
    """Accept a non-empty ``str``."""
    words = "a name or path" + (" or null" if or_none else "")
    return lambda value: (or_none and value is None) or (isinstance(value, str) and value != ""), words


def text_or_texts(or_none: bool = False) -> tuple[Test, str]:
    """Accept a non-empty ``str``, or a list of them."""
    passes, words = text(or_none)

    def passes_each(value: Any) -> bool:
        if isinstance(value, list):
            return bool(value) and all(isinstance(one, str) and one for one in value)
        return passes(value)

    return passes_each, f"{words}, or a list of them"


def whole_numbers(low: int, or_none: bool = False) -> tuple[Test, str]:
    """Accept a list of ``int`` of at least ``low``."""
    words = f"a list of whole numbers of at least {low}" + (" or null" if or_none else "")

    def passes(value: Any) -> bool:
        if value is None:
            return or_none
        return isinstance(value, list) and bool(value) and all(_is(one, int) and one >= low for one in value)

    return passes, words


def folders_of(dataset_dir: str | Sequence[str] | None) -> list[str]:
    """Return the folders that ``dataset_dir`` names: none, one, or those of a list."""
    if dataset_dir is None:
        return []
    return [dataset_dir] if isinstance(dataset_dir, str) else list(dataset_dir)


def mapping() -> tuple[Test, str]:
    """Accept a ``dict``; its own user checks what is in it."""
    return lambda value: isinstance(value, dict), "names with their values in braces"


def one_of(choices: Iterable[str]) -> tuple[Test, str]:
    """Accept one of ``choices``."""
    names = list(choices)
    return lambda value: isinstance(value, str) and value in names, f"one of {', '.join(names)}"


def some_of(choices: Iterable[str]) -> tuple[Test, str]:
    """Accept a list of one or more of ``choices``, each once."""
    names = list(choices)

    def passes(value: Any) -> bool:
        if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
            return False
        return set(value) <= set(names) and len(set(value)) == len(value)

    return passes, f"a list of some of {', '.join(names)}"


def check_values(rules: dict[str, tuple[Test, str]], values: dict[str, Any]) -> None:
    """Hold each value against its rule.

    Raises:
        InputError: the first value that does not pass, with its key and what would be right.
    """
    for key, value in values.items():
        passes, words = rules[key]
        if not passes(value):
            raise InputError(f"{key} is {value!r}: give {words} with --{key}.")


def check_device(device: Any) -> None:
    """Refuse a device that this machine does not have.

    Raises:
        InputError: unknown name, or a GPU where there is none.
    """
    import torch

    try:
        torch.empty(1, device=torch.device(device))
    except (RuntimeError, TypeError, AssertionError) as error:
        raise InputError(
            f"device is {str(device)!r}, which this machine does not have: give cpu"
            + (" or cuda" if torch.cuda.is_available() else "")
            + " with --device."
        ) from error


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
