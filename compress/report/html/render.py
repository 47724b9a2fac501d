"""A page as HTML: everything inside, nothing fetched, nothing run."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from compress import __version__
from compress.report.html.blocks import Page
from compress.report.html.palette import css_variables
from compress.report.html.plot import svg

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["render"]

_HERE = Path(__file__).parent


def render(page: Page) -> bytes:
    """The page as one UTF-8 file. Every text is escaped: names in it come from strangers' models and devices."""
    from markupsafe import Markup

    style = css_variables() + (_HERE / "style.css").read_text(encoding="utf-8")
    pictures = {plot.name: Markup(svg(plot)) for plot in page.plots}  # noqa: S704  our own SVG, its texts escaped
    text = _template().render(page=page, style=Markup(style), pictures=pictures, version=__version__)  # noqa: S704
    return text.encode()


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")
