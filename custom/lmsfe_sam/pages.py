"""HTML pages made with Jinja templates, each one file that needs no other."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup


def environment(folder: Path) -> Environment:
    """Return an environment for the templates in ``folder``.

    Values are escaped unless they are `markupsafe.Markup`; an undefined name is an error.
    """
    templates = Environment(
        loader=FileSystemLoader(folder, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates


def style_sheet(path: Path) -> Markup:
    """Return the text of a style sheet, to be put into a page as it is."""
    return Markup(path.read_text(encoding="utf-8"))
