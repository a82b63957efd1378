"""The spine: the modules on the way from a model down to its targets."""

from __future__ import annotations

from torch import nn

from truncate._target import Target


class Spine:
    """Which module holds which of the targets."""

    def __init__(self, targets: list[Target]) -> None:
        self.targets = targets
        self._held: dict[int, frozenset[int]] = {}

    def holds(self, module: nn.Module) -> frozenset[int]:
        """The numbers of the targets that lie below a module, or are operations of its own forward."""
        if id(module) not in self._held:
            self._held[id(module)] = frozenset()  # a module that holds itself adds nothing
            held = {t for t, target in enumerate(self.targets) if target.module is module and not target.is_module}
            for child in module._modules.values():
                if child is not None:
                    held |= self.holds(child)
                    held |= {t for t, target in enumerate(self.targets) if target.module is child and target.is_module}
            self._held[id(module)] = frozenset(held)
        return self._held[id(module)]
