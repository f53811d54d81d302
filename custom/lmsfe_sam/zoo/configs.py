"""What changes in a config when the package lies inside the bundle.

MONAI puts a bundle's folder on the module path when a run starts, after ``initialize``; a config that
touches the package in ``initialize`` therefore works from the bundle's own folder alone. Packaged, those
steps become the first of ``run``, and ``bundle_root`` is found from the package's own place: the bundle
runs from every folder.
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

STEPS = "prepare"
"""The key that holds the steps of ``initialize`` in a packaged config."""

BUNDLE_ROOT = "$str(Path(lmsfe_sam.__file__).resolve().parents[1])"

NETWORK_KEYS = (
    "preset",
    "image_size",
    "local_encoder",
    "mhpm",
    "adapters",
    "balancing_adapter",
    "position_norm",
    "position_mode",
    "backbone",
)
"""What the description beside a checkpoint and the training config both say of a network."""


def vendored(config: Config, modules: list[str]) -> Config:
    """Return a config that runs with the package inside the bundle.

    Args:
        config: the parsed content of a config file; it is not changed. One that was packaged before
            comes back as it is.
        modules: what the package imports; a missing one ends the run in one sentence that names it.
    """
    if STEPS in config or f"+{STEPS}" in config:
        return dict(config)
    changed = {_renamed(key): value for key, value in config.items()}
    if STEPS in changed:
        changed[STEPS] = [_missing(modules) if "find_spec" in step else step for step in changed[STEPS]]
        changed["run"] = [f"@{STEPS}", *changed["run"]]
    if "imports" in changed:  # one config's replace the other's: each brings what bundle_root needs
        changed["imports"] = ["$from pathlib import Path", *changed["imports"]]
    if "bundle_root" in changed:
        changed["bundle_root"] = BUNDLE_ROOT
    return changed


def with_network(config: Config, description: Config) -> Config:
    """Return a training config whose network is the one of the bundle's own weights.

    Args:
        config: the parsed ``train.json``; it is not changed.
        description: the content of ``model.json``.
    """
    return {**config, **{key: description[key] for key in NETWORK_KEYS if key in description}}


def _renamed(key: str) -> str:
    return {"initialize": STEPS, "+initialize": f"+{STEPS}"}.get(key, key)


def _missing(modules: list[str]) -> str:
    sentence = (
        "'error: the Python module ' + name + ' is missing: install what configs/metadata.json lists under "
        "required_packages_version.'"
    )
    return f"$[sys.exit({sentence}) for name in {modules!r} if find_spec(name) is None]"
