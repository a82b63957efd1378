"""A cut inside a scikit-learn pipeline: cross-validation says which layer has the best features for new digits.

Run it with `python examples/sklearn_pipeline.py`; the network and the images are those of `transfer_digits.py`.
"""

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transfer_digits import digit_images, pretrained

from truncate import truncate


class Features(TransformerMixin, BaseEstimator):
    """What `model` has at `upto`: one row of float32 for each image."""

    def __init__(self, model, upto, pool=None):
        self.model = model
        self.upto = upto
        self.pool = pool

    def fit(self, images, labels=None):
        self.backbone_ = truncate(self.model, self.upto, pool=self.pool, flatten=True, copy=True).eval()
        return self

    @torch.no_grad()
    def transform(self, images):
        return np.concatenate([self.backbone_(batch).numpy() for batch in torch.from_numpy(images).split(256)])


def main():
    torch.manual_seed(0)
    images, labels = digit_images(seed=0)
    model = pretrained(images, labels)
    new = labels >= 5
    images, labels = images[new].numpy(), labels[new].numpy()
    for upto in ("block1", "block2", "block3"):
        pipeline = make_pipeline(Features(model, upto, pool="max"), StandardScaler(), LogisticRegression(max_iter=1000))
        scores = cross_val_score(pipeline, images, labels, cv=3)
        print(f"{upto}: {100 * scores.mean():.1f} %")


if __name__ == "__main__":
    main()
