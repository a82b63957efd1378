"""A strict reader of the pages that are drawn."""

from __future__ import annotations

from html.parser import HTMLParser


class Strict(HTMLParser):
    """Fails on tags that do not match; collects what may be searched, and copied."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.targets: list[str] = []
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "button" and "data-target" in given:
            self.targets.append(str(given["data-target"]))
            assert given["aria-label"]
        if tag == "li" and "data-find" in given:
            self.found.append(str(given["data-find"]))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(text: str) -> Strict:
    parser = Strict()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    return parser
