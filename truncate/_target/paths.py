"""The path: the modules that lead from a model down to its targets."""

from __future__ import annotations

from torch import nn

from truncate._target.target import Target


class TargetPaths:
    """Which modules are on the path, and to which of the targets."""

    def __init__(self, targets: list[Target]) -> None:
        self.targets = targets
        self._below: dict[int, frozenset[int]] = {}
        self._modules: dict[int, set[int]] = {}  # id of a module that is a target -> the numbers of these targets
        self._operations: dict[int, set[int]] = {}  # likewise for targets that are operations of its forward
        for t, target in enumerate(targets):
            kind = self._modules if target.is_module else self._operations
            kind.setdefault(id(target.module), set()).add(t)

    def reaches(self, module: nn.Module) -> bool:
        """Whether a target is this module, or inside it."""
        return id(module) in self._modules or bool(self.holds(module))

    def holds(self, module: nn.Module) -> frozenset[int]:
        """The numbers of the targets inside a module, or among the operations of its own forward."""
        known = self._below.get(id(module))
        if known is not None:
            return known
        self._below[id(module)] = frozenset()  # meanwhile: a module that contains itself adds nothing
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
