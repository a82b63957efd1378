"""The page that a drawing is written to, by itself and in a real browser."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import parsed
from torch import nn

from truncate import draw, layers


def test_html_holds_every_place_and_stands_by_itself(deep: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "cut.html"
    draw(deep, "layer3.20.conv2", to=path)
    text = path.read_text()
    assert sorted(parsed(text).targets) == sorted(place.path for place in layers(deep))
    assert len(parsed(text).found) == len(layers(deep))
    ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))  # it is XML too
    assert not re.search(r"(?:https?:)?//(?!<!\[CDATA|\]\])[a-z]|@import|url\(|\bsrc=|\bhref=", text)


# -- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="driving a browser needs playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with api.sync_playwright() as playwright:
        path = found or playwright.chromium.executable_path
        if not Path(path).exists():
            pytest.skip("no Chromium: install the package `chromium`, or run `playwright install chromium`")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, deep: nn.Module, tmp_path: Path) -> Iterator[Any]:
    draw(deep, "layer3.20.conv2", to=tmp_path / "cut.html")
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    errors: list[Any] = []
    page.on("pageerror", lambda error: errors.append(error))
    page.goto((tmp_path / "cut.html").as_uri())
    yield page
    assert errors == []
    context.close()


def button(page: Any, path: str) -> Any:
    return page.locator(f'button[data-target="{path}"]')


def test_it_folds_and_unfolds(page: Any) -> None:
    assert button(page, "layer3.20.conv2").is_visible()  # where it is cut is unfolded at first
    assert not button(page, "layer3.5.conv2").is_visible()
    fold = page.locator("summary", has=page.locator("code", has_text="1 … 19"))
    fold.click()
    assert button(page, "layer3.5").is_visible()
    fold.focus()
    page.keyboard.press("Enter")
    assert not button(page, "layer3.5").is_visible()
    page.get_by_text("unfold all").click()
    assert button(page, "layer3.5.conv2").is_visible()
    page.get_by_text("fold all", exact=True).click()
    assert not button(page, "conv1").is_visible()


def test_search_finds_a_layer(page: Any) -> None:
    search = page.get_by_label("Find a layer")
    search.fill("layer3.17.conv3")
    assert button(page, "layer3.17.conv3").is_visible()
    assert not button(page, "fc").is_visible()
    assert page.locator(".said").inner_text() == "1 target"
    search.fill("LAYER4 batchnorm")
    assert page.locator(".said").inner_text() == "10 targets"
    search.fill("nothing like it")
    assert page.locator(".said").inner_text() == "0 targets"
    search.press("Escape")
    assert button(page, "layer3.20.conv2").is_visible()
    assert not button(page, "layer3.17.conv3").is_visible()


@pytest.mark.parametrize("clipboard", ["there", "refused"])
def test_a_click_copies_the_target(page: Any, clipboard: str) -> None:
    if clipboard == "refused":
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); }")
    button(page, "layer3.20.bn1").click()
    page.wait_for_function("document.querySelector('.said').textContent !== ''")
    assert page.locator(".said").inner_text() == "copied layer3.20.bn1"
    assert page.evaluate("navigator.clipboard.readText()") == "layer3.20.bn1"
    assert button(page, "layer3.20.conv2").is_visible()  # the row around it did not fold
    button(page, "layer3").press("Enter")
    page.wait_for_function("document.querySelector('.said').textContent === 'copied layer3'")
    assert page.evaluate("navigator.clipboard.readText()") == "layer3"
    assert button(page, "layer3.20").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in_light_and_dark(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 900, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for path in ("layer3.20.conv1", "fc"):  # one that is kept, one that is dropped
        assert _contrast(*page.evaluate(_COLOURS, path)) >= 4.5


_COLOURS = """path => {
  const button = document.querySelector(`button[data-target="${path}"]`);
  return [getComputedStyle(button).color, getComputedStyle(button.closest(".truncate-drawing")).backgroundColor];
}"""


def _contrast(first: str, second: str) -> float:
    """How far apart the luminances of two colours are, as the guidelines for accessible pages count it."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)
