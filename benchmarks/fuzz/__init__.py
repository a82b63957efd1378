"""Random models, cut at random and compared with forward hooks: ``python -m benchmarks.fuzz 0 300``.

`features` holds what a model can be made of, `author` writes one as source text, and `models` makes modules of the
text. `cuts` draws how it is cut and run, `oracle` looks at the untouched model, and `trial` compares the two, with the
help of `gradients`. `driver` tries many seeds in processes of their own, `known` lists what is not mended yet, `reduce`
makes a failing model small, and `results` tells.
"""
