"""What the commands print: tables as wide as they need to be, one JSON object, warnings."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from truncate._errors import printable
from truncate._graph import map_nested
from truncate._show import plain


def show(drawn: RenderableType) -> None:
    """Prints a table or a tree, in colours on a terminal. What is wider than the terminal goes on in its next line."""
    if not sys.stdout.isatty():
        print(plain(drawn))
        return
    console = Console(highlight=False)
    wide = Console(highlight=False, width=10_000)
    for line in wide.render_lines(drawn, pad=False):
        text = Text.assemble(*((segment.text, segment.style or "") for segment in line))
        text.rstrip()
        console.print(text, soft_wrap=True)


def show_json(**found: Any) -> None:
    """Prints one JSON object."""
    print(json.dumps(found, indent=2))


def named(shape: Any) -> Any:
    """Nested shapes as JSON has them: None, or the name of a type, for what is no tensor."""
    names = {type(None): None}
    return map_nested(shape, lambda item: names.get(item, item.__name__) if isinstance(item, type) else item)


def warn(text: str) -> None:
    """Prints a line on stderr, if there is something to warn of."""
    if text:
        print(printable(f"warning: {text}"), file=sys.stderr)
