"""What older versions cannot do, which is not this library's to mend: such a test is skipped, for the reason given here.

With torch 2.6 each of these was seen to fail, and with 2.11 to pass; nobody has looked between them.
"""

from __future__ import annotations

import torch

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))

# By what is in the id of a test.
BELOW_2_11 = {
    "computes_with_shapes": "slices of a torch.Size are plain tuples, without numel()",
    "test_equal_in_two_calls_or_refused[RegistersABuffer]": "register_buffer takes no proxy, so this needs an example",
    "test_fx": "a torch.fx.GraphModule of a forward whose annotations are strings cannot be pickled",
    "test_onnx[max-": "the exporter to ONNX has no adaptive max pooling",
    "test_what_compiles_and_exports_models_does_so_with_cuts[aot_eager]": "Dynamo makes no exceptions with arguments",
    "test_what_compiles_and_exports_models_does_so_with_cuts[eager]": "Dynamo makes no exceptions with arguments",
    "test_what_compiles_and_exports_models_does_so_with_cuts[strict]": "Dynamo makes no exceptions with arguments",
    "test_bert": "the versions of transformers for it give BertLayer a __call__ of its own, so it stays live",
}


def reason(test: str) -> str:
    """Why a test is skipped; empty for one that is not."""
    found = next((why for name, why in BELOW_2_11.items() if name in test), "") if TORCH < (2, 11) else ""
    return found and f"torch {torch.__version__}: {found}"
