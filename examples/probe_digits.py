"""Which layer knows most about new digits: a network that was trained on 0 to 4 is probed on 5 to 9.

Run it with `python examples/probe_digits.py`; it takes some seconds and downloads nothing. The network and the images
are those of `transfer_digits.py`, with more layers: a linear layer after the blocks makes ten numbers of each image, as
few as the five digits need that the network was trained to tell apart.
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
    model = narrow_net()
    train(model, images[old], labels[old], Adam(model.parameters(), lr=0.01))

    result = probe(model, images[new].split(64), labels[new], pool={"block3": None})
    print(result)
    return result


if __name__ == "__main__":
    main()
