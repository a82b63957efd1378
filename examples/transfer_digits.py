"""Transfer learning on real data: what was learned from the digits 0 to 4 helps to learn 5 to 9 from few labels.

Run it with `python examples/transfer_digits.py`; it takes some seconds and downloads nothing. The digits of
scikit-learn lie at random positions in larger images, so that a few of them do not show all there is to know. The table
also shows where this ends: with forty labels of each digit, a network that starts from scratch has overtaken the one
with frozen features. (Without the random positions, these digits are so easy that transfer does not help at all.)
"""

import torch
import torch.nn.functional as F
from rich import print
from rich.table import Table
from sklearn.datasets import load_digits
from torch import nn
from torch.optim import Adam

from truncate import freeze, truncate, with_head

SEEDS = range(5)
LABELS = (5, 10, 40)  # how many images of each new digit have one


class DigitNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
        self.block2 = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2))
        self.block3 = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.fc = nn.Linear(32 * 4 * 4, 5)

    def forward(self, images):
        return self.fc(self.block3(self.block2(self.block1(images))).flatten(1))


def digit_images(seed):
    """Images (1797, 1, 16, 16) from 0 to 1, each with a digit, and which one; the seed decides position and order."""
    digits, generator = load_digits(), torch.Generator().manual_seed(seed)
    order = torch.randperm(len(digits.target), generator=generator)
    corners = torch.randint(9, (len(order), 2), generator=generator).tolist()
    images = torch.zeros(len(order), 1, 16, 16)
    for image, digit, (top, left) in zip(images, torch.tensor(digits.images)[order], corners):
        image[0, top : top + 8, left : left + 8] = digit / 16
    return images, torch.tensor(digits.target)[order]


def train(model, images, labels, optimizer):
    for _epoch in range(50):
        model.train()
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def pretrained(images, labels):
    """A network that knows the digits 0 to 4."""
    model = DigitNet()
    return train(model, images[labels < 5], labels[labels < 5], Adam(model.parameters(), lr=0.01))


def accuracies(model, images, labels, n):
    """In percent, on the digits 5 to 9, with n labels of each: from scratch, frozen and fine-tuned."""
    images, labels = images[labels >= 5], labels[labels >= 5] - 5
    known = torch.cat([(labels == digit).nonzero()[:n, 0] for digit in range(5)])
    unknown = torch.ones(len(labels), dtype=torch.bool).index_fill(0, known, False)

    scratch = DigitNet()
    frozen = with_head(freeze(truncate(model, before="fc", copy=True)), 5, args=(images[:1],))
    tuned = with_head(truncate(model, before="fc", copy=True), 5, args=(images[:1],))
    slow = {"params": tuned.backbone.parameters(), "lr": 0.001}
    optimizers = {
        scratch: Adam(scratch.parameters(), lr=0.01),
        frozen: Adam(frozen.parameters(), lr=0.01),  # what is frozen has no gradient, and is passed over
        tuned: Adam([slow, {"params": tuned.head.parameters()}], lr=0.01),
    }
    for model, optimizer in optimizers.items():
        train(model, images[known], labels[known], optimizer)
    with torch.no_grad():
        return [100 * (m(images[unknown]).argmax(1) == labels[unknown]).float().mean().item() for m in optimizers]


def main():
    results = torch.zeros(len(SEEDS), len(LABELS), 3)
    for seed in SEEDS:
        torch.manual_seed(seed)
        images, labels = digit_images(seed)
        model = pretrained(images, labels)
        results[seed] = torch.tensor([accuracies(model, images, labels, n) for n in LABELS])

    table = Table("labels of each", "from scratch", "frozen", "fine-tuned", title="Accuracy on 5 to 9 in percent")
    for n, row in zip(LABELS, results.mean(0).tolist()):
        table.add_row(str(n), *(f"{value:.1f}" for value in row))
    print(table)
    return results


if __name__ == "__main__":
    main()
