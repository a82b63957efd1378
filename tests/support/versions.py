"""What older versions cannot do, and this library cannot mend: such a test is skipped, for the reason given here.

Each was seen to fail with torch 2.6, and is skipped below the first version that it was seen to pass with.
"""

from __future__ import annotations

import torch

# By what is in the name of a test.
TOO_OLD = {
    "computes_with_shapes": ((2, 11), "slices of a torch.Size are plain tuples, without numel()"),
    "does_so_with_cuts[aot_eager]": ((2, 11), "Dynamo makes no exceptions with arguments"),
    "does_so_with_cuts[eager]": ((2, 11), "Dynamo makes no exceptions with arguments"),
    "does_so_with_cuts[in parts]": ((2, 11), "Dynamo runs what it compiled for another cut, without our hooks"),
    "does_so_with_cuts[strict]": ((2, 11), "Dynamo makes no exceptions with arguments"),
    "ordinary_module[compiled-live]": ((2, 11), "Dynamo makes no exceptions with arguments"),
    "ordinary_module[exported-live]": ((2, 11), "Dynamo makes no exceptions with arguments"),
    "test_in_two_processes[sharded]": ((2, 11), "FSDP2 does not run on a CPU"),
    "test_what_it_lists": ((2, 11), "the modules of an exported program do not say of which class they were"),
    "or_refused[RegistersABuffer]": ((2, 11), "register_buffer takes no proxy, so this needs an example"),
    "of_its_calls[signature": ((2, 11), "torch warns of what it makes of such a program itself"),
    "test_bert": ((2, 11), "the transformers for it gives BertLayer a __call__ of its own, so it stays live"),
    "test_fx": ((2, 15), "a torch.fx.GraphModule of a forward whose annotations are strings cannot be pickled"),
    "test_onnx[max-": ((2, 15), "the exporter to ONNX has no adaptive max pooling"),
}


def reason(test: str) -> str:
    """Why a test is skipped; empty for one that is not."""
    have = tuple(map(int, torch.__version__.split(".")[:2]))
    for name, (first, why) in TOO_OLD.items():
        if name in test and have < first:
            return f"torch {torch.__version__}: {why}"
    return ""
