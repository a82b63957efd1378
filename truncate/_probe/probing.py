"""What a user calls to find the layer that suits a data set."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import numpy as np
from torch import Tensor, nn

from truncate._errors import TruncateError
from truncate._extract import Bar, Batch, Reader, device_of, evaluating, gathered, mapped
from truncate._probe.choose import chosen
from truncate._probe.result import ProbedLayer, Probes
from truncate._probe.scores import Array, Trial, measures, sklearn, trial
from truncate._probe.taps import Pass, Tap, cost, cut_at, rows_of, work
from truncate._sandbox import example_of, outside_inference_mode, random_state_kept
from truncate._show import count_parameters, layers
from truncate._target import module_given


@outside_inference_mode
def probe(
    model: nn.Module,
    batches: Iterable[Any],
    labels: Any = None,
    at: Any = None,
    *,
    args: tuple[Any, ...] | None = None,
    kwargs: dict[str, Any] | None = None,
    pool: Any = "auto",
    score: Any = None,
    estimator: Any = "linear",
    groups: Any = None,
    folds: int = 5,
    seed: int = 0,
    progress: bool = True,
) -> Probes:
    """Which layer suits a data set: one pass of the model, and then for each layer a linear model by cross-validation.

    The pass is that of `extract`: in evaluation mode and without gradients, and modes and random generators are
    afterwards as they were. It keeps one vector of float32 for each example and layer; those of a layer that take a
    gigabyte lie in a temporary file.

    Args:
        model: Any module that `truncate` takes. It is not changed.
        batches: What `extract` takes: a DataLoader or another iterable of tensors, of tuples (tensor, labels), or of
            dicts. They are read once.
        labels: One for each example, in the order of the batches: whole numbers or strings are classes, floats are
            numbers to be predicted, also several for each example. None: those in the batches. If there are none
            either, measures that need no labels are taken.
        at: What to probe: a path as for `truncate`, a pattern of paths (``"layer?.*"``), ``"before fc"`` for what a
            layer is given, an item (``"lstm[0]"``), ``"last"``, a type of module, a module of the model; or a list of
            these. None: each block's output, and what the last layer is given.
        args: Positional arguments of an example call, for forwards that have to be recorded. None: two rows of the
            first batch, which a model that takes one batch size alone refuses: give it ``args=(batch,)``.
        kwargs: Keyword arguments of that call.
        pool: How the output of a layer becomes one vector. ``"auto"``: by its shape, maps (N, C, H, W) or (N, H, W, C)
            by their mean, and tokens (N, L, C) in two rows, by the first of them and by their mean. Otherwise what
            `truncate` takes, or None to flatten, for all layers; or a dict of these by layer, ``"auto"`` for the rest.
        score: The name of a score of scikit-learn, or a scorer; the higher, the better. None: ``"accuracy"`` for
            classes, ``"r2"`` for numbers.
        estimator: ``"linear"``, logistic regression or, for numbers, ridge regression with a penalty found within each
            fold; ``"knn"``, five nearest neighbours; or any estimator of scikit-learn. Before it, vectors are
            standardised, by the examples of the fold that it is fitted to.
        groups: One for each example: those of one group are never on both sides of a fold.
        folds: How many parts the examples are divided into.
        seed: Decides the folds, which are the same for each layer.
        progress: Whether to show bars on stderr, if that is a terminal.

    Returns:
        `Probes`: a row for each layer and pooling, which prints as a table.

    Raises:
        UnknownTargetError: `at` names nothing in the model.
        ExtractError: The batches are not as described.
        TruncateError: scikit-learn is missing; labels, groups or folds do not fit the data; or what `truncate` raises.
    """
    model = module_given("probe", model)
    if not isinstance(folds, int) or folds < 2:
        raise TruncateError(f"folds={folds!r}: the examples are divided into 2 or more parts")
    sklearn("model_selection")
    judge = None if labels is None else trial(labels, groups, estimator, score, folds, seed)
    with random_state_kept(), evaluating(model):
        batches = _Batches(batches, model)
        probing = Probing(model, at, pool, batches.first, args, kwargs)
        with probing.passed.tapped() as module:
            features, read, _ = gathered(module, batches, progress)
        if judge is None and read is not None:
            judge = trial(_single(read), groups, estimator, score, folds, seed)
        return probing.result(features, judge, seed, progress)


class Probing:
    """The layers of a model that are probed: the pass that gives their vectors, and what each of them costs.

    Args:
        model: The model, in evaluation mode.
        at: As `probe` takes it, and the next one too.
        pool: How outputs become vectors.
        first: The first batch, on the device of the model.
        args: An example call; neither: two rows of the first batch.
        kwargs: Its keyword arguments.
    """

    def __init__(
        self,
        model: nn.Module,
        at: Any,
        pool: Any,
        first: Batch,
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        given = rows_of(first, 2) if args is None and kwargs is None else (args, kwargs)
        self._example = example_of(model, *given)
        targets = chosen(model, at, layers(model), self._example)
        self._model, self._targets, self._first = model, targets, first
        self.passed = Pass(cut_at(model, list(targets.values()), self._example), targets, pool, first.rows)

    def result(self, features: list[Array], judge: Trial | None, seed: int, progress: bool) -> Probes:
        """The table, of the vectors of each tap."""
        _check(features, self.passed.taps, judge)
        costs, whole = self._costs()
        found = measures(features, seed) if judge is None else None
        rows: list[ProbedLayer] = []
        with Bar(len(features), progress, unit="layers") as bar:
            for number, (tap, vectors) in enumerate(zip(self.passed.taps, features)):
                parameters, multiply_adds = costs[tap.layer]
                scores = judge.scores(vectors) if judge else ()
                row = ProbedLayer(
                    layer=tap.layer,
                    pool=tap.how,
                    dimension=vectors.shape[1],
                    score=statistics.fmean(scores) if scores else None,
                    spread=statistics.stdev(scores) / len(scores) ** 0.5 if scores else None,
                    scores=scores,
                    intrinsic_dimension=None if found is None else found.intrinsic[number],
                    effective_rank=None if found is None else found.rank[number],
                    agreement=None if found is None else float(found.agreement[number, -1]),
                    parameters=parameters,
                    multiply_adds=multiply_adds,
                    share=(parameters if multiply_adds is None else multiply_adds) / whole if whole else None,
                    milliseconds=self.passed.milliseconds(tap),
                )
                rows.append(row)
                bar.advance(1)
        return Probes(self._model, self._example, rows, self.passed, features, judge, found)

    def _costs(self) -> tuple[dict[str, tuple[int, int | None]], int]:
        """Parameters and multiply-adds up to each layer, and what their shares are of."""
        tapped = {tap.layer for tap in self.passed.taps}
        costs = {name: cost(self._model, self._targets[name], self._example, self._first) for name in tapped}
        whole = work(self._model, self._first)
        if whole and all(multiply_adds is not None for _, multiply_adds in costs.values()):
            return costs, whole
        return {name: (parameters, None) for name, (parameters, _) in costs.items()}, count_parameters(self._model)


class _Batches:
    """The batches, of which the first is known before they are run."""

    def __init__(self, given: Iterable[Any], model: nn.Module) -> None:
        if isinstance(given, Tensor) or not isinstance(given, Iterable):
            raise TruncateError(
                f"batches are a DataLoader or another iterable of batches, but got a {type(given).__name__}; a tensor "
                "of all examples is given as tensor.split(64)"
            )
        self._length = len(given) if isinstance(given, Sized) else None
        rest = iter(given)
        begin = list(itertools.islice(rest, 1))
        if not begin:
            raise TruncateError("there are no batches (a generator that has already been used up is empty)")
        self._all = itertools.chain(begin, rest)
        self.first: Batch = Reader(model, None).read(begin[0], 0)
        where = device_of(model)
        arguments = mapped((self.first.args, self.first.kwargs), lambda tensor: tensor.to(where))
        self.first.args, self.first.kwargs = arguments

    def __iter__(self) -> Iterator[Any]:
        return self._all

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError("how many batches there are is not known")
        return self._length


def _single(read: Any) -> Any:
    if isinstance(read, tuple | dict):
        names = ", ".join(map(repr, read)) if isinstance(read, dict) else f"{len(read)} of them"
        raise TruncateError(f"the batches hold several labels ({names}): give those to be probed as labels=")
    return read


def _check(features: list[Array], taps: list[Tap], judge: Trial | None) -> None:
    examples = len(features[0])
    if judge is not None and len(judge.labels) != examples:
        raise TruncateError(
            f"there are {len(judge.labels)} labels, and {examples} examples in the batches: give one for each, in "
            "their order"
        )
    for vectors, tap in zip(features, taps):
        if not np.isfinite(vectors).all():
            bad = int((~np.isfinite(vectors).all(1)).argmax())
            raise TruncateError(
                f"{tap.layer} gives values that are not finite, first for example {bad}: was the input finite, and is "
                "the model in a type that holds its values? Leave the layer out of at=, or run the model in float32"
            )
