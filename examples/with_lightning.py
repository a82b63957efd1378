"""A cut as the backbone of a LightningModule: two blocks stay as they are, what is after them learns new digits.

Run it with `python examples/with_lightning.py`; the network and the images are those of `transfer_digits.py`.
"""

import torch
import torch.nn.functional as F
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset
from transfer_digits import digit_images, pretrained

from truncate import freeze, truncate, with_head


class Classifier(LightningModule):
    def __init__(self, backbone, example):
        super().__init__()
        self.model = with_head(backbone, 5, args=(example,))

    def training_step(self, batch, index):
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def test_step(self, batch, index):
        images, labels = batch
        self.log("accuracy", (self.model(images).argmax(1) == labels).float().mean(), on_epoch=True)

    def configure_optimizers(self):
        return torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=0.01)


def main():
    torch.manual_seed(0)
    images, labels = digit_images(seed=0)
    backbone = truncate(pretrained(images, labels), before="fc", copy=True)
    freeze(backbone, upto="block2")
    classifier = Classifier(backbone, images[:1])
    classifier.train()  # Lightning keeps the modes that it finds; what is frozen stays in evaluation

    data = TensorDataset(images[labels >= 5], labels[labels >= 5] - 5)
    known, unknown = torch.utils.data.random_split(data, [200, len(data) - 200])
    trainer = Trainer(
        max_epochs=20,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(classifier, DataLoader(known, batch_size=50, shuffle=True))
    (results,) = trainer.test(classifier, DataLoader(unknown, batch_size=256), verbose=False)
    print(f"{len(unknown)} new digits, {100 * results['accuracy']:.1f} % are found")


if __name__ == "__main__":
    main()
