"""Make matplotlib's SVG fit for a page that holds others: no identifier twice, no style sheet, no metadata, small."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree as Xml

from compress.core.errors import one_line

__all__ = ["cleaned", "standalone"]

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_DROPPED = {f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"}
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # in XML 1.0
_GEOMETRY = ("d", "x", "y", "width", "height", "transform", "points")
_DECIMALS = re.compile(r"-?\d+\.\d{3,}")
_FONT = re.compile(r"font: (?:[a-z0-9]+ )*?([\d.]+)px [^;]+")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def cleaned(content: bytes, name: str, title: str, alt: str) -> str:
    """An `<svg>` element with `title` and `alt` for assistive technology.

    Args:
        content: an SVG document that matplotlib wrote.
        name: begins every identifier in it.
    """
    root = Xml.fromstring(_ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", content.decode()))  # noqa: S314  matplotlib's output: no entities, names in it are escaped
    _drop(root)
    _rename(root, name)
    for element in root.iter():
        _shrink(element)
    _describe(root, name, title, alt)
    for element in root.iter():  # in a page the namespace is the parser's business
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
    return Xml.tostring(root, encoding="unicode", short_empty_elements=True)


def standalone(element: str, width: int, height: int, style: str) -> str:
    """The `<svg>` element that `cleaned` made as a document of its own, on the palette's surface."""
    text = "text{font-family:system-ui,sans-serif}svg *{stroke-linejoin:round}"
    opening = f'<svg xmlns="{_SVG}" width="{width}" height="{height}" '
    background = f'<style>{style}{text}</style><rect width="{width}" height="{height}" fill="var(--surface)"/>'
    head, end_of_description, rest = element.replace("<svg ", opening, 1).partition("</desc>")
    return f"{head}{end_of_description}{background}{rest}\n"


def _drop(element: Xml.Element) -> None:
    for child in list(element):
        if child.tag in _DROPPED:
            element.remove(child)
        else:
            _drop(child)


def _rename(root: Xml.Element, name: str) -> None:
    """Keep only identifiers that something refers to, and make them unique on a page."""
    used = set(_references(root))
    for element in root.iter():
        identifier = element.attrib.pop("id", None)
        if identifier in used:
            element.set("id", f"{name}-{identifier}")
        link = element.attrib.pop(_LINK, None)
        if link is not None:
            element.set("href", f"#{name}-{link.removeprefix('#')}")
        for key, value in element.attrib.items():
            element.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))


def _references(root: Xml.Element) -> Iterator[str]:
    for element in root.iter():
        yield element.get(_LINK, "").removeprefix("#")
        for value in element.attrib.values():
            yield from _REFERENCE.findall(value)


def _shrink(element: Xml.Element) -> None:
    """Two decimals are a fiftieth of a pixel; the page's font replaces matplotlib's."""
    for key in _GEOMETRY:
        if key in element.attrib:
            element.set(key, _DECIMALS.sub(lambda found: f"{float(found[0]):.2f}", element.attrib[key]).strip())
    if "style" in element.attrib:
        element.set("style", _FONT.sub(r"font-size: \1px", element.attrib["style"]))
    if element.text and not element.text.strip():
        element.text = None
    if element.tail and not element.tail.strip():
        element.tail = None


def _describe(root: Xml.Element, name: str, title: str, alt: str) -> None:
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("class", "plot")
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for place, (tag, text) in enumerate((("title", title), ("desc", alt))):
        element = Xml.Element(tag, {"id": f"{name}-{tag}"})
        element.text = one_line(text)
        root.insert(place, element)
