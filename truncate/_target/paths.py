"""The path: the modules on the way from a model down to its targets."""

from __future__ import annotations

from torch import nn

from truncate._target.target import Target


class TargetPaths:
    """Which module holds which of the targets."""

    def __init__(self, targets: list[Target]) -> None:
        self.targets = targets
        self._below: dict[int, frozenset[int]] = {}
        self._modules: dict[int, set[int]] = {}  # id of a module that is a target -> the numbers of those targets
        self._operations: dict[int, set[int]] = {}  # likewise for operations of its forward
        for t, target in enumerate(targets):
            kind = self._modules if target.is_module else self._operations
            kind.setdefault(id(target.module), set()).add(t)

    def reaches(self, module: nn.Module) -> bool:
        """Whether a target is that module, or inside of it."""
        return id(module) in self._modules or bool(self.holds(module))

    def holds(self, module: nn.Module) -> frozenset[int]:
        """The numbers of the targets that lie below a module, or are operations of its own forward."""
        known = self._below.get(id(module))
        if known is not None:
            return known
        self._below[id(module)] = frozenset()  # a module that holds itself adds nothing
        held = set(self._operations.get(id(module), ()))
        for child in module._modules.values():
            if child is not None:
                key = id(child)
                if key in self._modules:
                    held |= self._modules[key]
                if child._modules or key in self._operations:
                    held |= self.holds(child)
        self._below[id(module)] = frozenset(held) if held else _NONE
        return self._below[id(module)]


_NONE: frozenset[int] = frozenset()
