"""Change the configs of a packaged bundle so that it runs from any folder.

MONAI puts the bundle's folder on the module path when ``run`` starts. That is after ``initialize``, where the
package could therefore be found from the bundle's own folder alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Config = dict[str, Any]

STEPS = "prepare"
"""The key that ``initialize`` is renamed to; its steps become the first of ``run``."""

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
"""Options of the network in the description of a checkpoint."""


def portable(config: Config, modules: Iterable[str]) -> Config:
    """Return a copy of a config that runs from every folder.

    Args:
        config: the content of a config file. A packaged one is returned without changes.
        modules: top-level modules that the package needs. If one is missing, the run ends with one sentence.
    """
    if STEPS in config or f"+{STEPS}" in config:
        return dict(config)
    renamed = {"initialize": STEPS, "+initialize": f"+{STEPS}"}
    changed = {renamed.get(key, key): value for key, value in config.items()}
    if STEPS in changed:
        steps = [step for step in changed[STEPS] if "find_spec" not in step]
        changed[STEPS] = [_require(modules), *steps]
        changed["run"] = [f"@{STEPS}", *changed["run"]]
    if "imports" in changed:  # The imports of a second config replace these: each config needs its own.
        changed["imports"] = ["$from pathlib import Path", *changed["imports"]]
    if "bundle_root" in changed:
        changed["bundle_root"] = BUNDLE_ROOT
    return changed


def with_network(config: Config, description: Config) -> Config:
    """Return a copy of ``train.json`` with the network options of ``model.json``, as far as it has them."""
    return config | {key: description[key] for key in NETWORK_KEYS if key in config and key in description}


def _require(modules: Iterable[str]) -> str:
    sentence = (
        "'error: the Python module ' + name + ' is missing: install what configs/metadata.json lists under "
        "required_packages_version.'"
    )
    return f"$[sys.exit({sentence}) for name in {sorted(modules)!r} if find_spec(name) is None]"
