"""A cut in a loop of Hugging Face accelerate: the backbone learns slowly, the new head fast.

Run it with `python examples/with_accelerate.py`, or on several devices with `accelerate launch` and without `cpu=True`;
the network and the images are those of `transfer_digits.py`.
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset, random_split
from transfer_digits import digit_images, pretrained

from truncate import truncate, with_head


def main():
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    images, labels = digit_images(seed=0)
    backbone = truncate(pretrained(images, labels), before="fc", copy=True)
    model = with_head(backbone, 5, args=(images[:1],))
    optimizer = torch.optim.Adam(
        [{"params": model.backbone.parameters(), "lr": 0.001}, {"params": model.head.parameters(), "lr": 0.01}]
    )
    data = TensorDataset(images[labels >= 5], labels[labels >= 5] - 5)
    known, unknown = random_split(data, [200, len(data) - 200])
    batches, rest = DataLoader(known, batch_size=50, shuffle=True), DataLoader(unknown, batch_size=256)
    model, optimizer, batches, rest = accelerator.prepare(model, optimizer, batches, rest)

    for _epoch in range(20):
        model.train()
        for some, digits in batches:
            loss = F.cross_entropy(model(some), digits)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()

    model.eval()
    with torch.no_grad():
        found = [accelerator.gather_for_metrics(model(some).argmax(1) == digits) for some, digits in rest]
    accelerator.print(f"{len(unknown)} new digits, {100 * torch.cat(found).float().mean():.1f} % are found")


if __name__ == "__main__":
    main()
