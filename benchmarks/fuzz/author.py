"""Writes a random model as source text: the same text for the same seed."""

from __future__ import annotations

import copy
import random
import re
import textwrap
from dataclasses import dataclass, field

from benchmarks.fuzz.features import GIVEN, LEAVES, OPENINGS, PRELUDE, RETURNED, SUBJECTS

LEVELS = 3  # the model itself, blocks, and blocks in these
PROBES = ("cos", "sin", "erf", "atan", "asinh", "expm1", "sinc")  # operations that may be targets
EMPTY = {"list": "[]", "dict": "{}", "box": "Box()"}  # containers, as they are when a forward makes them
CLASS = """

class {name}(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))
{init}
    def forward(self, {arguments}):
{body}
"""


@dataclass
class Made:
    """A child: the expression that makes one, how a tensor is got from its result, and the container that it wants."""

    expression: str
    access: str = "{}"
    box: str | None = None
    is_block: bool = False


@dataclass
class Scope:
    """What a place in a forward can use."""

    depth: int  # levels of blocks that may follow
    tensors: list[str]
    boxes: list[tuple[str, str]]  # kind and name
    children: dict[str, Made] = field(default_factory=dict)
    init: list[str] = field(default_factory=list)
    nesting: int = 0  # of branches and loops around this place


class Author:
    """Draws a model. Each uses a few features only, which then meet each other more often."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.classes: list[str] = []
        self.numbers = 0
        self.probes = self.random.sample(PROBES, len(PROBES))
        self.features: dict[str, list[str]] = {}
        for subject, (all_of_it, _) in SUBJECTS.items():
            if subject == "calls" or self.chance(0.5 if subject != "odd" else 0.15):
                count = self.random.randint(1, max(2, len(all_of_it) // 2))
                self.features[subject] = self.random.sample(all_of_it, min(count, len(all_of_it)))
        self.leaves = self.random.sample(LEAVES, 8)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def model(self) -> str:
        """The whole source. The class of the model itself is called `Model`."""
        self.block("Model", LEVELS - 1)
        return PRELUDE + "".join(self.classes)

    # -- classes -----------------------------------------------------------------------------------------------------

    def block(self, name: str, depth: int, plain: bool = False) -> Made:
        """Writes a class. A `plain` one takes a tensor and returns one."""
        random = self.random
        box = random.choice(list(EMPTY)) if "containers" in self.features and name != "Model" else None
        if plain or self.chance(0.4):
            box = None
        scope = Scope(depth, ["x"], [(box, "box")] if box else [])
        body = [] if self.chance(0.4) else random.choice(OPENINGS).strip("\n").splitlines()
        for _ in range(random.choice([2, 3, 4, 6] if depth else [1, 2, 3])):
            body += self.statement(scope)
        form = "{a}" if plain else random.choice(list(RETURNED) if self.chance(0.6) else ["{a}"])
        last = scope.tensors[-1] if self.chance(0.8) else random.choice(scope.tensors)
        body.append("return " + form.format(a=last, b=random.choice(scope.tensors)))
        given = "x, y=None, scale=1.0" if not box else "x, y=None, scale=1.0, *, box"
        init = [f"self.{child} = {made.expression}" for child, made in scope.children.items()] + scope.init
        text = CLASS.format(name=name, arguments=given, init=_indented(init), body=_indented(body))
        self.classes.append(re.sub(r"(super\(\).__init__\(\)\n.*\n)\n", r"\1", text) if not init else text)
        return Made(f"{name}()", RETURNED[form], box, True)

    def made(self, scope: Scope, plain: bool) -> Made:
        if scope.depth and self.chance(0.5):
            return self.block(f"Block{self.number()}", scope.depth - 1, plain)
        return Made(self.random.choice(self.leaves))

    def child(self, scope: Scope, plain: bool) -> str:
        """The name of a new child, or of one that is there already."""
        old = [name for name, made in scope.children.items() if not plain or made.access == "{}" and not made.box]
        if old and self.chance(0.3):
            return self.random.choice(old)
        name = f"m{self.number()}"
        scope.children[name] = self.made(scope, plain)
        return name

    def call(self, scope: Scope, lines: list[str]) -> str:
        name = self.child(scope, False)
        made = scope.children[name]
        given = "{a}"
        if made.is_block:
            given = self.random.choice(GIVEN).format(a=self.tensor(scope), b=self.tensor(scope))
            given += f", box={self.box(made.box, scope, lines)}" if made.box else ""
        else:
            given = self.tensor(scope)
        return made.access.format(f"self.{name}({given})")

    # -- statements --------------------------------------------------------------------------------------------------

    def tensor(self, scope: Scope) -> str:
        return scope.tensors[-1] if self.chance(0.5) else self.random.choice(scope.tensors)

    def box(self, kind: str, scope: Scope, lines: list[str]) -> str:
        """A container, which is made in `lines` if there is none."""
        names = [name for other, name in scope.boxes if other == kind]
        if names and self.chance(0.8):
            return self.random.choice(names)
        name = f"{kind}{self.number()}"
        scope.boxes.append((kind, name))
        empty = "Slots()" if kind == "box" and self.chance(0.3) else EMPTY[kind]
        lines.append(f"{name} = {empty}" if kind != "list" or self.chance(0.7) else f"{name} = [{self.tensor(scope)}]")
        return name

    def statement(self, scope: Scope) -> list[str]:
        subjects = list(self.features)
        subject = self.random.choices(subjects, [SUBJECTS[name][1] for name in subjects])[0]
        text = self.random.choice(self.features[subject])
        if subject == "random":
            if scope.depth != LEVELS - 1 or scope.nesting:
                return []  # only where it runs once
            del self.features[subject]  # and only one
        if ("{body}" in text and scope.nesting > 1) or ("{op}" in text and not self.probes):
            return []
        return self.filled(text, scope)

    def filled(self, text: str, scope: Scope) -> list[str]:
        """The lines of a feature, with everything in braces filled in."""
        before: list[str] = []
        names = {"a": self.tensor(scope), "b": self.tensor(scope), "n": str(self.number())}
        fresh = f"v{names['n']}"
        names["v"] = self.tensor(scope) if scope.nesting else fresh
        names["op"] = f"torch.{self.probes.pop()}" if "{op}" in text else ""
        for kind in EMPTY:
            names[kind] = self.box(kind, scope, before) if f"{{{kind}}}" in text else ""
        makers = {
            "call": lambda: self.call(scope, before),
            "leaf": lambda: f"self.{self.child(scope, True)}",
            "made": lambda: self.made(scope, True).expression,
        }
        lines: list[str] = []
        for line in text.splitlines():
            if line.strip() == "{body}":
                inner = copy.copy(scope)  # what is made inside is known inside alone, but for the modules
                inner.boxes, inner.nesting = list(scope.boxes), scope.nesting + 1
                body = [s for _ in range(self.random.choice([1, 1, 2])) for s in self.statement(inner)]
                lines += textwrap.indent("\n".join(body or ["pass"]), line[: -len("{body}")]).splitlines()
                continue
            again = names["leaf"] if "leaf" in names and self.chance(0.5) else None
            for name, make in makers.items():
                if f"{{{name}}}" in line:
                    parts = line.split(f"{{{name}}}")
                    used = [again if name == "leaf" and again else make() for _ in parts[1:]]
                    line = parts[0] + "".join(_escaped(new) + part for new, part in zip(used, parts[1:]))
            filled = line.format(**names)
            if filled.startswith("init "):
                scope.init.append(filled.removeprefix("init "))
            else:
                lines.append(filled)
        if names["v"] == fresh and "{v}" in text:
            if _may_be_missing(text):
                before.append(f"{fresh} = {names['a']}")
            scope.tensors.append(fresh)
        return before + lines


def _may_be_missing(text: str) -> bool:
    """Whether a feature gives its new tensor a value only if a branch is taken."""
    words = ("\n{v} ", "else:", "case _:", "with ", "try:")
    return not any(word in "\n" + text for word in words)


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _indented(lines: list[str]) -> str:
    return textwrap.indent("\n".join(lines), " " * 8)


def source_of(seed: int) -> str:
    return Author(seed).model()
