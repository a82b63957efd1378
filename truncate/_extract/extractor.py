"""Extracting features where another engine divides the work: a class that maps batches of columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from truncate._errors import ExtractError, require_module
from truncate._extract.batches import Batch, check_rows, columns_of
from truncate._extract.compute import Forward, computed, evaluating
from truncate._sandbox import random_state_kept


class Extractor:
    """Replaces inputs by features, batch by batch, for ``map_batches`` of Ray Data.

    ``images.map_batches(Extractor, fn_constructor_args=(backbone,), batch_size=64, num_gpus=1, compute=...)`` keeps
    one in each actor. It needs pyarrow, but not Ray.

    Args:
        module: The module to run, as for `extract`. It is moved to the device.
        column: The name of the column that holds the inputs: an array with a row for each row of the batch.
        device: Where to compute. The default is a GPU if this process sees one.
        dtype: ``torch.bfloat16`` or ``torch.float16`` computes under autocast.

    Raises:
        ExtractError: `module` is not a module.
    """

    def __init__(
        self,
        module: nn.Module,
        column: str = "image",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        require_module("Extractor", module, ExtractError)
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._module, self._column = module.to(self._device), column
        self._forward = Forward(self._module, self._device, dtype)

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        """The batch, a dict of numpy arrays, as a pyarrow table with features in place of the inputs.

        Features have the same names and types as with `extract`.

        Raises:
            ExtractError: The batch does not have the column, or the column holds no numbers; or an output of the module
                does not have a row for each input.
        """
        from truncate._extract.parquet import table_of  # which needs pyarrow

        if self._column not in batch:
            raise ExtractError(f"the batch has no column {self._column!r}: it has {', '.join(map(repr, batch))}")
        try:
            inputs = torch.tensor(batch[self._column])  # a copy: the array may be read-only
        except (TypeError, ValueError) as error:
            raise ExtractError(
                f"the column {self._column!r} is not an array of numbers with a row for each input: {error}. Do "
                "the inputs have different shapes?"
            ) from error
        with random_state_kept(listening=False), evaluating(self._module):
            [(_, output)] = computed(self._forward, [Batch((inputs,), {}, len(inputs), None, None)], self._device)
        columns = list(columns_of(output, "features"))
        check_rows(columns, len(inputs))
        return table_of({name: values for name, values in batch.items() if name != self._column}, dict(columns))
