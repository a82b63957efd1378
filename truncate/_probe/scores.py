"""How much a linear model finds in vectors, by cross-validation; and measures of vectors that need no labels."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from truncate._errors import TruncateError

Array = np.ndarray[Any, Any]

_MOST = 2000  # examples whose neighbours are sought
_NEIGHBOURS = 10


def sklearn(module: str) -> Any:
    """A module of scikit-learn, which takes a second to import and which not everyone has."""
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise TruncateError(
            "probing needs scikit-learn, which cannot be imported: pip install 'torch-truncate[probe]'"
        ) from error


# -- with labels -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Trial:
    """What is the same for each layer: the labels, the folds, the model that is fitted, and the score."""

    labels: Array
    splits: list[tuple[Array, Array]]
    learner: Any
    scorer: Any
    scored: str  # the name of the score
    classes: list[Any] | None  # None: the labels are numbers

    def scores(self, vectors: Array) -> tuple[float, ...]:
        """The score in each fold."""
        found = sklearn("model_selection").cross_val_score(
            self.learner, vectors, self.labels, cv=self.splits, scoring=self.scorer, error_score="raise"
        )
        return tuple(map(float, found))

    def head(self, vectors: Array, like: Tensor) -> nn.Linear:
        """A linear layer that does what the model fitted to all examples does; `like` has its type and device."""
        scaler, model = sklearn("base").clone(self.learner).fit(vectors, self.labels)
        if getattr(model, "coef_", None) is None:
            raise TruncateError(
                f"a {type(model).__name__} is no linear layer: probe with estimator='linear', or put what you like "
                "after cut()"
            )
        weight = np.atleast_2d(model.coef_) / scaler.scale_
        bias = np.atleast_1d(model.intercept_) - weight @ scaler.mean_
        if self.classes is not None and len(weight) == 1:  # of two classes, the first has the logit 0
            weight, bias = np.vstack([0 * weight, weight]), np.append(0 * bias, bias)
        head = nn.Linear(weight.shape[1], len(weight), device=like.device, dtype=like.dtype)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(weight))
            head.bias.copy_(torch.from_numpy(bias))
        return head


def trial(labels: Any, groups: Any, estimator: Any, score: Any, folds: int, seed: int) -> Trial:
    """The trial for these labels; all arguments as `probe` takes them."""
    labels = as_labels(labels)
    is_numbers = labels.dtype.kind == "f"
    scored = score if isinstance(score, str) else getattr(score, "__name__", type(score).__name__)
    scored = ("r2" if is_numbers else "accuracy") if score is None else scored
    try:
        scorer = sklearn("metrics").get_scorer(scored) if score is None or isinstance(score, str) else score
    except ValueError:
        raise TruncateError(
            f"score={score!r} is no score of scikit-learn: sklearn.metrics.get_scorer_names() lists them"
        ) from None
    scaler = sklearn("preprocessing").StandardScaler()
    learner = sklearn("pipeline").make_pipeline(scaler, _estimator(estimator, is_numbers))
    splits = _splits(labels, is_numbers, groups, folds, seed)
    return Trial(labels, splits, learner, scorer, scored, None if is_numbers else np.unique(labels).tolist())


def as_labels(given: Any) -> Array:
    """Labels as an array: whole numbers and strings are classes, and other numbers are numbers."""
    labels = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels.flat):
        labels = labels.astype(str)
    if labels.dtype.kind not in "fiubU" or labels.ndim not in ((1, 2) if labels.dtype.kind == "f" else (1,)):
        raise TruncateError(
            f"the labels are an array of {labels.dtype} with shape {labels.shape}: they are one class for each example "
            "(whole numbers or strings), or one number or row of numbers (floats)"
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise TruncateError("some labels are not finite: leave out the examples that have none")
    return labels


def _estimator(asked: Any, is_numbers: bool) -> Any:
    if asked == "linear":
        linear = sklearn("linear_model")
        return linear.RidgeCV(np.logspace(-3, 5, 9)) if is_numbers else linear.LogisticRegression(max_iter=1000)
    if asked == "knn":
        neighbors = sklearn("neighbors")
        return neighbors.KNeighborsRegressor() if is_numbers else neighbors.KNeighborsClassifier()
    if not hasattr(asked, "fit") or isinstance(asked, type):
        raise TruncateError(f"estimator={asked!r}: it is 'linear', 'knn' or an estimator of scikit-learn")
    return asked


def _splits(labels: Array, is_numbers: bool, groups: Any, folds: int, seed: int) -> list[tuple[Array, Array]]:
    selection = sklearn("model_selection")
    if groups is not None:
        groups = np.asarray(groups.cpu() if isinstance(groups, Tensor) else groups)
        if groups.shape != (len(labels),):
            raise TruncateError(
                f"the groups have shape {groups.shape}, and there are {len(labels)} examples: give one group for each"
            )
    if not is_numbers:
        classes, counts = np.unique(labels, return_counts=True)
        if len(classes) < 2:
            raise TruncateError(
                f"all {len(labels)} labels are {classes[0].item()!r}: a probe needs two classes to tell apart"
            )
        if counts.min() < folds:
            raise TruncateError(
                f"the class {classes[counts.argmin()].item()!r} has {counts.min()} of {len(labels)} examples, and "
                f"folds={folds} needs {folds} of each class: take fewer folds, or leave it out. Labels that are "
                "quantities are given as floats"
            )
    if (units := len(labels) if groups is None else len(np.unique(groups))) < folds:
        raise TruncateError(
            f"folds={folds} needs as many {'examples' if groups is None else 'groups'}: there are {units}"
        )
    kinds = {
        (False, False): selection.StratifiedKFold,
        (False, True): selection.StratifiedGroupKFold,
        (True, False): selection.KFold,
        (True, True): selection.GroupKFold,
    }
    kind = kinds[is_numbers, groups is not None](folds, shuffle=True, random_state=seed)
    return list(kind.split(labels, labels, groups))


# -- without labels --------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Measures:
    """What can be said of the vectors of all layers without labels."""

    intrinsic: list[float]
    rank: list[float]
    agreement: Array  # of each two layers
    examples: int  # that this was measured on


def measures(features: list[Array], seed: int) -> Measures:
    """The measures of the standardised vectors of each layer."""
    total = len(features[0])
    chosen = np.random.default_rng(seed).permutation(total)[:_MOST]
    neighbours: list[Array] = []
    result = Measures([], [], np.ones((len(features), len(features))), len(chosen))
    if len(chosen) < 3:
        raise TruncateError(f"there are {total} examples: without labels, three at least are needed")
    for vectors in features:
        vectors = sklearn("preprocessing").StandardScaler().fit_transform(vectors[chosen])
        nearest = sklearn("neighbors").NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(chosen) - 1)).fit(vectors)
        distances, found = nearest.kneighbors()
        neighbours.append(found)
        result.intrinsic.append(_intrinsic_dimension(distances))
        result.rank.append(_effective_rank(vectors))
    for i, one in enumerate(neighbours):
        for j, other in enumerate(neighbours[:i]):
            common = [len(np.intersect1d(a, b)) for a, b in zip(one, other)]
            result.agreement[i, j] = result.agreement[j, i] = np.mean(common) / one.shape[1]
    return result


def _intrinsic_dimension(distances: Array) -> float:
    """By the distances to the two nearest neighbours: the estimate of most likelihood of TwoNN."""
    first, second = distances[:, 0], distances[:, 1]
    ratios = np.log(second[first > 0] / first[first > 0])
    return float((len(ratios) - 1) / ratios.sum()) if len(ratios) > 1 and ratios.sum() > 0 else float("nan")


def _effective_rank(vectors: Array) -> float:
    """The exponential of the entropy of the singular values, which are taken to be shares of their sum."""
    values = np.linalg.svd(vectors, compute_uv=False)
    shares = values[values > 0] / values.sum() if values.sum() > 0 else np.ones(1)
    return float(np.exp(-(shares * np.log(shares)).sum()))
