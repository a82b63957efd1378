"""Which layer knows most about new digits: networks that were trained on 0 to 4 are probed on 5 to 9.

Run it with `python examples/probe_digits.py`; it takes some seconds and downloads nothing. The images and the first
network are those of `transfer_digits.py`. The second one has a narrow layer before its last one, and forgets there what
it does not need for the digits that it knows: the layer that is usually taken is then far from the best one.
"""

import torch
from torch import nn
from torch.optim import Adam
from transfer_digits import DigitNet, digit_images, train

from truncate import probe


def narrow_net():
    model = DigitNet()
    model.fc = nn.Sequential(nn.Linear(32 * 4 * 4, 10), nn.ReLU(), nn.Linear(10, 5))
    return model


def main():
    torch.manual_seed(0)
    images, labels = digit_images(seed=0)
    old, new = labels < 5, labels >= 5
    results = []
    for model in (DigitNet(), narrow_net()):
        train(model, images[old], labels[old], Adam(model.parameters(), lr=0.01))
        # Without pooling, since it matters where in block3 something is
        results.append(probe(model, images[new].split(64), labels[new], pool={"block3": None}))
        print(results[-1], end="\n\n")
    return results


if __name__ == "__main__":
    main()
