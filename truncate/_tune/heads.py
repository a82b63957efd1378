"""A fresh head after a backbone."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from truncate._errors import TruncateError, require_module
from truncate._sandbox import Example, example_of, outputs_of
from truncate._target import resolve


def with_head(
    backbone: nn.Module,
    n: int,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
) -> nn.Module:
    """A backbone followed by a new ``nn.Linear``, as one module with the children `backbone` and `head`.

    To find the width of the head, a copy of the backbone runs once on an example, in evaluation. This does not change
    random states, running statistics, modes or gradients.

    Args:
        backbone: Any module that returns one tensor. For (N, C), the head returns (N, n). For (N, L, C), it returns
            (N, L, n), one row for each token. The backbone is used as it is, and not copied.
        n: The number of outputs of the head, such as the number of classes.
        args: Positional arguments of an example call of the backbone. They may be on the meta device.
        kwargs: Keyword arguments of that call.

    Returns:
        A module with the arguments of the example. For one positional argument it is an ``nn.Sequential``, otherwise a
        module that passes all its arguments to the backbone. The head has the device and the dtype of its input. For
        an example on the meta device, it has the device of the backbone's last parameter.

    Raises:
        TruncateError: The backbone does not run on the example, or does not return such a tensor.
    """
    require_module("with_head", backbone)
    if type(n) is not int or n < 1:
        raise TruncateError(f"n is the number of outputs of the head: an integer, 1 or more, not {n!r}")
    if args is None and kwargs is None:
        raise TruncateError("the width of the head is found on an example input: give args=(x,) or kwargs={...}")
    example = example_of(backbone, args, kwargs)
    features = _output(backbone, example)
    device = features.device
    if device.type == "meta":
        device = next((parameter.device for parameter in reversed(list(backbone.parameters()))), torch.device("cpu"))
    head = nn.Linear(features.shape[-1], n, device=device, dtype=features.dtype)
    kind = nn.Sequential if len(example.args) == 1 and not example.kwargs else WithHead
    return kind(OrderedDict(backbone=backbone, head=head))


class WithHead(nn.Sequential):
    """A backbone that takes any arguments, and a head after it."""

    backbone: nn.Module
    head: nn.Linear

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.head(self.backbone(*args, **kwargs))


def _output(backbone: nn.Module, example: Example) -> Tensor:
    if any(map(is_lazy, [*backbone.parameters(), *backbone.buffers()])):
        raise TruncateError("the backbone has lazy parameters. Run it once on an example, then give it a head")
    with torch.no_grad():
        output = outputs_of(backbone, example, [resolve(backbone, "")], training=False)[0][-1]
    if not isinstance(output, Tensor):
        raise TruncateError(
            f"a head takes one tensor, but the backbone returns a {type(output).__name__}. "
            f"Stop at a layer that returns a tensor"
        )
    if output.dim() > 3:
        raise TruncateError(
            f"the backbone returns maps of shape {list(output.shape)}, and a head takes (N, C) or (N, L, C). "
            f"Pool and flatten them: truncate(..., pool='avg', flatten=True), or pool='mean' if channels are last"
        )
    if output.dim() < 2 or not output.is_floating_point():
        raise TruncateError(
            f"the backbone returns a tensor of shape {list(output.shape)} and {output.dtype}, and a head takes (N, C) "
            f"or (N, L, C), of floating point numbers"
        )
    return output
