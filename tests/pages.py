"""Reads a page of HTML as strictly as a test wants it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Reads a page strictly: every tag is closed by its own, text and attributes are kept."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element that is closed at once."""
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        """An element ends: the last one that began."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Text, wherever it is."""
        self.text += data


NUMBERS = {"x", "y", "cx", "cy", "width", "height", "d", "transform", "viewbox"}
PLACED = {"svg", "path", "rect", "text", "circle"}


def assert_sound(source: str) -> Page:
    """The page, when every tag is closed, all places in plots are finite, and nothing comes from elsewhere."""
    page = Page(source)
    assert not {"script", "img", "iframe"} & {tag for tag, _ in page.elements}
    assert not re.search(r"url\(|@import|src=", source)
    for tag, attributes in page.elements:
        if tag in PLACED:
            for name in NUMBERS & attributes.keys():
                assert not re.search(r"nan|inf|none", attributes[name], re.IGNORECASE), (tag, attributes)
    return page
