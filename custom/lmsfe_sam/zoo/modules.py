"""Which files of the package a bundle needs: what its configs name, and what that imports in turn."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path


def files_needed(package: Path, configs: Iterable[str]) -> list[Path]:
    """Return the package's files that a bundle with these configs needs.

    Servers, packaging and benchmarks that the package also holds stay out, and with them what they import.

    Args:
        package: the package's folder.
        configs: the text of each config file.

    Returns:
        Modules and, of the same stem beside them, the files that they read (a page's template).
    """
    dotted = rf"\b{package.name}(?:\.\w+)*"
    waiting = {
        file for text in configs for name in re.findall(dotted, text) for file in _modules(package, name)
    }
    found: set[Path] = set()
    while waiting:
        file = waiting.pop()
        found.add(file)
        names = _imported_names(ast.parse(file.read_text(encoding="utf-8")))
        waiting |= {module for name in names for module in _modules(package, name)} - found
    beside = {other for file in found for other in file.parent.glob(f"{file.stem}.*") if other.is_file()}
    marker = package / "py.typed"
    return sorted(found | beside | ({marker} if marker.is_file() else set()))


def _modules(package: Path, name: str) -> Iterator[Path]:
    """Yield the module that a dotted name begins with, and the packages around it."""
    first, *parts = name.split(".")
    if first != package.name:
        return
    place = package
    yield place / "__init__.py"
    for part in parts:
        place /= part
        if (place / "__init__.py").is_file():
            yield place / "__init__.py"
        elif place.with_suffix(".py").is_file():
            yield place.with_suffix(".py")
        else:
            return


def _imported_names(tree: ast.Module) -> Iterator[str]:
    """Yield what a module imports, wherever in it; of ``from a import b`` a.b, as b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
