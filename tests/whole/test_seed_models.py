"""The models of the tutorials on taking features out of a network, each cut where its tutorial does."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from oracle import capture, equal, parameters_needed, randomize, unexpected_parameters
from rebuilt import truncate
from torch import Tensor, nn
from torchvision import models


class LinearAutoencoder(nn.Module):
    """Keeps what its hidden layer gave as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_hidden = nn.Linear(64, 16)
        self.encoder_output = nn.Linear(16, 8)
        self.decoder_hidden = nn.Linear(8, 16)
        self.decoder_output = nn.Linear(16, 64)
        self.hidden_layer_output = None

    def forward(self, features: Tensor) -> Tensor:
        activation = torch.relu(self.encoder_hidden(features))
        code = torch.relu(self.encoder_output(activation))
        self.hidden_layer_output = code
        activation = torch.relu(self.decoder_hidden(code))
        return torch.sigmoid(self.decoder_output(activation))


class ConvolutionalAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, stride=2, padding=1),
            nn.ReLU(True),
            nn.Conv2d(16, 4, 3, stride=2, padding=1),
            nn.ReLU(True),
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(4, 16, 2, stride=2), nn.ReLU(True), nn.ConvTranspose2d(16, 1, 2, stride=2), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class VAE(nn.Module):
    """Calls methods of its own from forward, as the PyTorch example does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 32)
        self.fc21 = nn.Linear(32, 4)
        self.fc22 = nn.Linear(32, 4)
        self.fc3 = nn.Linear(4, 32)
        self.fc4 = nn.Linear(32, 64)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h1 = torch.relu(self.fc1(x))
        return self.fc21(h1), self.fc22(h1)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def decode(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.fc4(torch.relu(self.fc3(z))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.encode(x.view(-1, 64))
        return self.decode(self.reparameterize(mu, logvar)), mu, logvar


def timm_resnet18() -> nn.Module:
    model = timm.create_model("resnet18")
    model.fc = nn.Sequential(nn.Dropout(0.2), nn.Linear(model.fc.in_features, 3))
    return model


def vectors(batch: int) -> Tensor:
    return torch.randn(batch, 64)


def digits(batch: int) -> Tensor:
    return torch.randn(batch, 1, 28, 28)


def images(size: int) -> Any:
    return lambda batch: torch.randn(batch, 3, size, size)


CUTS: dict[str, tuple[Any, str, str, Any, str]] = {  # model, as written, path, inputs, the children that it holds
    "alexnet": (models.alexnet, "classifier[-2]", "classifier.5", images(224), "features avgpool classifier"),
    "vgg16": (models.vgg16, "features[9]", "features.9", images(64), "features"),
    "linear": (LinearAutoencoder, "encoder_output", "encoder_output", vectors, "encoder_hidden encoder_output"),
    "convolutional": (ConvolutionalAutoencoder, "encoder[-1]", "encoder.3", digits, "encoder"),
    "vae": (VAE, "fc21", "fc21", vectors, "fc1 fc21"),
    "timm": (
        timm_resnet18,
        "global_pool",
        "global_pool",
        images(64),
        "conv1 bn1 act1 maxpool layer1 layer2 layer3 layer4 global_pool",
    ),
}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", CUTS)
def test_cut(name: str, training: bool) -> None:
    make, written, path, inputs, children = CUTS[name]
    model = randomize(make()).train(training)
    whole = make().train(training)
    whole.load_state_dict(model.state_dict())
    cut = truncate(model, written)
    assert [child for child, _ in cut.named_children()] == children.split()
    assert not unexpected_parameters(model, cut, parameters_needed(model, path, inputs(2)))
    for batch in (2, 3):
        x = inputs(batch)
        torch.manual_seed(batch)
        expected = capture(whole, [path], x)[path][-1]
        torch.manual_seed(batch)
        assert equal(cut(x), expected)


def test_alexnet_gives_4096_numbers() -> None:
    cut = truncate(models.alexnet().eval(), "classifier[-2]")
    assert isinstance(cut.classifier, nn.Sequential)
    assert len(cut.classifier) == 6
    assert cut(torch.randn(1, 3, 224, 224)).shape == (1, 4096)


def test_vgg_at_several_layers() -> None:
    """The activations after them work in place, and must not reach what was asked for."""
    model, x = models.vgg16().eval(), torch.randn(2, 3, 64, 64)
    paths = ["features.9", "features.0", "features.28", "features.16", "features.2"]
    seen = capture(model, paths, x)
    assert equal(truncate(model, [f"features[{path[9:]}]" for path in paths])(x), [seen[path][-1] for path in paths])
    named = truncate(model, {path.replace(".", "_"): path for path in paths})(x)
    assert equal(list(named.values()), [seen[path][-1] for path in paths])


def test_the_hidden_layer_that_is_stored() -> None:
    """What the forward stores on itself is not stored on the model while it is cut."""
    model, x = LinearAutoencoder(), torch.randn(3, 64)
    cut = truncate(model, "relu_1")
    assert model.hidden_layer_output is None
    code = cut(x)
    assert model.hidden_layer_output is None
    model(x)
    assert torch.equal(code, model.hidden_layer_output)


def test_vae_by_the_mean_and_the_sample() -> None:
    model, x = VAE(), torch.randn(3, 64)
    torch.manual_seed(1)
    output = model(x)
    torch.manual_seed(1)
    (decoded, mu, logvar), mean = truncate(model, ["", "fc21"])(x)
    assert equal((decoded, mu, logvar), output)
    assert torch.equal(mean, output[1])
    torch.manual_seed(1)
    assert torch.equal(truncate(model, "sigmoid")(x), output[0])


def test_predictions_and_features_in_one_pass() -> None:
    model, x = timm_resnet18().eval(), torch.randn(2, 3, 64, 64)
    seen = capture(model, ["global_pool", "layer3"], x)
    got = truncate(model, {"logits": "", "features": "global_pool", "map": "layer3"})(x)
    assert list(got) == ["logits", "features", "map"]
    assert equal(got, {"l": model(x), "f": seen["global_pool"][-1], "m": seen["layer3"][-1]})


def test_a_head_of_ones_own_learns_on_a_frozen_backbone() -> None:
    """Transfer learning: only the head changes, and the model's own weights stay what they are."""
    model = timm_resnet18().eval()
    backbone, head = truncate(model, "global_pool").requires_grad_(False), nn.Linear(512, 3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    x, y = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    losses = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(head(backbone(x)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
