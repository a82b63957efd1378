"""How a model is cut, and on what the result is run: drawn at random, and written down as plain data."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from truncate import split, truncate

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Run:
    """One pass: in which mode, and on what."""

    mode: str = "as cut"  # or "train", "eval"
    batch: int = 2
    length: int = 3
    content: int = 0  # the seed of the numbers
    scale: float = 1.0  # of the numbers, which some branches ask for
    optional: bool = False  # whether the optional input is there
    gradients: bool = False  # whether they are compared too

    def set_mode(self, *modules: nn.Module) -> None:
        if self.mode != "as cut":
            for module in modules:
                module.train(self.mode == "train")

    def inputs(self) -> list[Tensor]:
        """The same each time, but never the same objects."""
        generator = torch.Generator().manual_seed(self.content)
        shape = (self.batch, self.length, 4)
        made = [torch.randn(shape, generator=generator) * self.scale for _ in range(1 + self.optional)]
        return [tensor.requires_grad_() for tensor in made] if self.gradients else made


def call_of(inputs: list[Tensor]) -> Call:
    """What a model is called with: the second input by its name."""
    return (inputs[0],), {"y": inputs[1]} if len(inputs) > 1 else {}


@dataclass(frozen=True)
class Cut:
    """A call of `truncate` or `split`, and what is then done with the result."""

    how: str  # "upto", "before", "after" or "split"
    targets: tuple[str, ...]
    form: str = "one"  # or "list", "tuple", "dict"
    after: str = ""
    example: Run | None = None
    live: bool | None = None
    copy: bool = False
    passing: bool = False  # crossing="pass"
    flags: int | None = None  # None: in evaluation, 0: in training, else a seed for each module's own mode
    through: str = ""  # "deepcopy" or "pickle": the result goes through this before it is run
    runs: tuple[Run, ...] = (Run(),)

    def prepare(self, model: nn.Module) -> nn.Module:
        """Sets the modes in which the model is cut."""
        model.train(self.flags == 0)
        if self.flags:
            chance = random.Random(self.flags)
            for module in model.modules():
                module.training = chance.random() < 0.5
        return model

    def make(self, model: nn.Module, example: Call | None) -> list[nn.Module]:
        """The pieces; but for `split` there is one."""
        options: dict[str, Any] = {"copy": self.copy, **self._crossing()}
        if example is not None:
            options.update(args=example[0], kwargs=example[1] or None)
        if self.how == "split":
            at = self.targets[0] if self.form == "one" else list(self.targets)
            return list(split(model, at, **options))
        options |= {} if self.live is None else {"live": self.live}
        options |= {"after": self.after} if self.how == "after" else {}
        stop = {"before" if self.how == "before" else "upto": self.arranged(list(self.targets))}
        return [truncate(model, **stop, **options)]

    def _crossing(self) -> dict[str, str]:
        return {"crossing": "pass"} if self.passing else {}

    def arranged(self, values: list[Any]) -> Any:
        if self.form == "one":
            return values[0]
        return {f"k{n}": v for n, v in enumerate(values)} if self.form == "dict" else eval(self.form)(values)

    def values(self, result: Any) -> list[Any]:
        """What `arranged` was made of."""
        return [result] if self.form == "one" else list(result.values() if isinstance(result, dict) else result)

    def __str__(self) -> str:
        """As a user would write it."""
        at: Any = self.arranged(list(self.targets))
        words = [f"at={at!r}" if self.how == "split" else f"{'before' if self.how == 'before' else 'upto'}={at!r}"]
        words += [f"after={self.after!r}"] if self.how == "after" else []
        words += ["args=..."] if self.example else []
        words += [f"live={self.live}"] if self.live is not None else []
        words += ["copy=True"] if self.copy else []
        words += ["crossing='pass'"] if self.passing else []
        return f"{'split' if self.how == 'split' else 'truncate'}(model, {', '.join(words)})"


def draw(chance: random.Random, places: list[tuple[str, int]], operations: list[str], gradients: bool) -> Cut:
    """A cut at some of these places, each with how often it runs, or at operations.

    `gradients` says whether some runs may compare them.
    """

    def target(own: bool = True) -> str:
        if operations and chance.random() < 0.15:
            return chance.choice(operations)
        path, calls = chance.choice(places)
        if own and chance.random() < 0.12:
            return ""
        if chance.random() < 0.15 + 0.3 * (calls > 1):
            return f"{path}:{chance.choice([*range(calls), -1, -calls])}"
        return path

    how = chance.choices(["upto", "before", "after", "split"], [6, 2, 1, 2])[0]
    form = chance.choices(["one", "list", "tuple", "dict"], [5, 3, 1, 1])[0]
    form = "list" if how == "split" and form != "one" else form
    count = 1 if form == "one" else chance.choice([1, 2, 2, 3])
    targets = tuple(target(how in ("upto", "after")) for _ in range(count))
    after = ""
    if how == "after":
        after = target(False).partition(":")[0]
        targets, form = (targets, form) if chance.random() < 0.4 else (("",), "one")
    live = chance.choices([None, True, False], [7, 2, 2])[0] if how in ("upto", "before") else None
    example = chance.random() < 0.55
    optional = chance.random() < 0.3 and (example or bool(live))  # what is left out without an example stays out
    flags = chance.choices([None, 0, 1 + chance.randrange(1000)], [5, 4, 2])[0]
    return Cut(
        how=how,
        targets=targets,
        form=form,
        after=after,
        example=Run(optional=optional) if example else None,
        live=live,
        copy=chance.random() < 0.2,
        passing=how == "split" and chance.random() < 0.7,
        flags=flags,
        through=chance.choices(["", "deepcopy", "pickle"], [8, 1, 1])[0],
        runs=_runs(chance, optional, example, gradients),
    )


def _runs(chance: random.Random, optional: bool, example: bool, gradients: bool) -> tuple[Run, ...]:
    """As cut at first; then other modes, sizes and content, often a step of training and evaluation after it."""
    runs = [Run(optional=optional, gradients=chance.random() < 0.3 * gradients)]
    if chance.random() < 0.2:
        runs.append(runs[0])
    modes = ["train", "eval"] if chance.random() < 0.6 else [chance.choice(["train", "eval"]) for _ in range(3)]
    for mode in modes:
        other = chance.random()
        runs.append(
            Run(
                mode,
                batch=chance.choice([1, 3, 4]) if other < 0.3 else 2,
                length=chance.choice([1, 2, 5]) if 0.2 < other < 0.5 else 3,
                content=chance.choice([0, 1, 2]),
                scale=chance.choice([1.0, 1.0, 5.0, 0.1]),
                optional=optional != (example and chance.random() < 0.02),
                gradients=chance.random() < 0.3 * gradients,
            )
        )
    return tuple(runs)
