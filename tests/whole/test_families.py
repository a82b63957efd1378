"""The tables of `docs/families.md` are what `benchmarks.families` writes; each cut in them is what a hook captures."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path

import pytest
from folders import ROOT

from truncate import truncate

pytest.importorskip("timm")
pytest.importorskip("transformers")

from benchmarks import families, report
from benchmarks.families import FAMILIES, Family

# What the models themselves deprecate, and what they warn of in tiny configurations.
pytestmark = pytest.mark.filterwarnings("ignore")

PAGE = (ROOT / "docs" / "families.md").read_text()
TABLES = PAGE.partition("<!-- begin families -->")[2].partition("<!-- end families -->")[0]
# Those that take more than half a second each.
SLOW = set("alexnet vgg11 inception_v3 convnext_tiny swin_t vit_b_32 r3d_18 rexnet_100 tiny_vit_5m_224".split())


def each(family: Family) -> object:
    model = family.model.strip("`")
    return pytest.param(family, id=f"{family.library}-{model}", marks=[pytest.mark.zoo] if model in SLOW else [])


@pytest.mark.parametrize("family", [each(family) for family in FAMILIES])
def test_the_page_has_what_a_hook_confirms(family: Family) -> None:
    section = TABLES.partition(f"### {family.library}\n")[2].partition("###")[0]
    assert families.line(families.row(family)) in section.splitlines()


def test_the_page_has_these_and_no_others() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|", TABLES, re.MULTILINE)
    shown = [row for row in rows if row not in (families.COLUMNS[:2], ("---", "---"))]
    assert shown == [(family.name, family.model) for family in FAMILIES]
    assert f"for {len(FAMILIES)} families" in PAGE
    assert len({family.model for family in FAMILIES}) == len(FAMILIES) >= 40
    assert {family.model.strip("`") for family in FAMILIES} >= SLOW


def of_bert() -> Family:
    (bert,) = (family for family in FAMILIES if family.model == "`BertModel`")
    return bert


def test_another_value_is_not_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut one block earlier has the same shape."""
    earlier = functools.partial(truncate, upto="encoder.layer[-2]")
    monkeypatch.setattr(families, "truncate", lambda model, upto, args: earlier(model, args=args))
    with pytest.raises(AssertionError, match="transformers, BERT: the cut differs from what a hook captures"):
        families.row(of_bert())


def test_another_width_is_not_written_down() -> None:
    with pytest.raises(AssertionError, match=r"BERT: \('intermediate_size',\) are \(37,\), and not \(32,\)"):
        families.row(dataclasses.replace(of_bert(), settings=("intermediate_size",)))


def test_tables_are_written_between_the_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("Before.\n\n<!-- begin families -->\nold\n<!-- end families -->\n\nAfter.\n")
    quick = [family for family in FAMILIES if family.model in ("`starnet_s050`", "`BertModel`")]
    monkeypatch.setattr(families, "FAMILIES", quick)
    report.write("families", "\n\n".join(families.tables()), page)
    written = page.read_text()
    assert written.startswith("Before.\n") and written.endswith("\nAfter.\n") and "old" not in written
    rows = [line for line in written.splitlines() if line.startswith("| ") and "`" in line]
    assert rows == [line for line in TABLES.splitlines() if "`starnet_s050`" in line or "`BertModel`" in line]
