"""Models of transformers from folders, and from what its cache has. Nothing is downloaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from command_line import run
from folders import ROOT
from PIL import Image

from truncate import truncate
from truncate._cli.commands import main

transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()  # it tells what is saved, too
transformers.utils.logging.disable_progress_bar()

SMALL = {"num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
IMAGES = {"image_size": 16, "patch_size": 8}


def config(kind: str) -> Any:
    words = {"vocab_size": 50}
    return {
        "bert": lambda: transformers.BertConfig(**SMALL, **words),
        "gpt2": lambda: transformers.GPT2Config(
            n_embd=16, n_head=2, n_layer=2, bos_token_id=0, eos_token_id=0, **words
        ),
        "t5": lambda: transformers.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, **words),
        "vit": lambda: transformers.ViTConfig(**SMALL, **IMAGES),
        "clip": lambda: transformers.CLIPConfig(
            vision_config={**SMALL, **IMAGES}, text_config={**SMALL, **words, "bos_token_id": 0, "eos_token_id": 1}
        ),
    }[kind]()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("truncate._cli.verifying.times", lambda whole, part: (2.0, 1.0))


def folder(kind: str, weights: bool = False) -> str:
    """A folder that holds a configuration, and weights perhaps."""
    settings = config(kind)
    settings.save_pretrained(kind)
    if weights:
        torch.manual_seed(3)
        transformers.AutoModel.from_config(settings).save_pretrained(kind)
    return f"hf:{kind}"


@pytest.mark.parametrize(
    ("kind", "upto", "example", "shape"),
    [
        ("bert", "encoder.layer.0", "1×12", "1×12×16"),
        ("gpt2", "h.0", "1×12", "1×12×16"),
        ("vit", "layers.0", "1×3×16×16", "1×5×16"),
        ("t5", "decoder.block.0", "1×12 and 1×12", "(1×12×16, "),
        ("clip", "vision_model.embeddings", "1×12 and 1×3×16×16", "1×5×16"),
    ],
)
def test_a_configuration_alone(
    kind: str, upto: str, example: str, shape: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = run(capsys, "cut", folder(kind), "--upto", upto)
    assert f"with random weights (model.safetensors next to {kind}/config.json would provide trained ones)" in out
    assert f"checked on random numbers ({example})" in out
    assert f"\n{upto}: {shape}" in out


def test_the_weights_of_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    name = folder("bert", weights=True)
    found = json.loads(
        run(capsys, "cut", name, "--upto", "encoder.layer.0", "--shape", "2,7", "--json", "--out", "x.pt2")
    )
    assert (found["weights"], found["random"], found["shapes"]) == ("the weights in bert", False, [[2, 7, 16]])
    words = torch.randint(50, (3, 7))  # of another batch size
    model = transformers.AutoModel.from_pretrained("bert").eval()
    expected = truncate(model, "encoder.layer.0", args=(words,))(words)
    assert torch.equal(torch.export.load("x.pt2").module()(words), expected)


def test_images_are_prepared_as_the_folder_says(capsys: pytest.CaptureFixture[str]) -> None:
    """By its own processor; and what the checkpoint does not hold is told."""
    Path("images").mkdir()
    Image.effect_noise((30, 20), 90).convert("RGB").save("images/0.png")
    torch.manual_seed(3)
    whole = transformers.ViTForImageClassification(config("vit")).eval()
    whole.save_pretrained("vit")
    given = ["extract", "hf:vit", "images", "--upto", "layers.0", "--out", "x.parquet", "--workers", "0"]
    assert main(given) == 2
    assert "vit holds no preprocessor_config.json, which says how its images" in capsys.readouterr().err
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.1, 0.2, 0.3])
    processor.save_pretrained("vit")
    run(capsys, *given)
    pixels = processor(images=Image.open("images/0.png"), return_tensors="pt")["pixel_values"]
    seen: list[torch.Tensor] = []
    whole.vit.layers[0].register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        whole(pixels)
    got = np.stack(pandas.read_parquet("x.parquet")["features"])
    assert np.array_equal(got, seen[0].reshape(1, -1).numpy())
    assert main([*given[:4], "pooler", "--out", "y.parquet"]) == 2
    told = "error: hf:vit has random weights in pooler.dense.bias, pooler.dense.weight, and their features say"
    assert capsys.readouterr().err.startswith(told)


def test_what_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    name = folder("bert")
    Path("empty").mkdir()
    Path("images").mkdir()
    Image.new("RGB", (8, 8)).save("images/0.png")
    extract = ["images", "--out", "x.parquet", "--random"]
    for model, more, told in [
        ("hf:", [], "no folder '': after hf: comes a folder that holds config.json, or a name such as gpt2"),
        ("hf:./none", [], "no folder './none': after hf: comes"),
        ("hf:empty", [], "hf:empty is a folder without config.json, so it is not a model (it holds nothing)"),
        ("hf:bert/config.json", [], "hf:bert/config.json is a file: name its folder, hf:bert"),
        ("hf:a b", [], "not the name of a model: 'a b': "),
        (name, ["--weights", "DEFAULT"], "hf:bert uses the weights of its folder, or those in the cache"),
        (name, extract, "hf:bert takes input_ids and not images; in Python, extract() takes any batches"),
    ]:
        assert main(["extract" if more is extract else "cut", model, "--upto", "x", *more]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        assert err.startswith(f"error: {told}")


def alone(*arguments: str, before: str = "pass") -> subprocess.CompletedProcess[str]:
    """In a process that reaches no network, and whose cache is the folder `home`."""
    code = f"import sys; {before}; from truncate.__main__ import run; sys.exit(run())"
    dead = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**dead, "HF_HOME": "home", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_name_is_what_the_cache_has() -> None:
    cached = Path("home/hub/models--me--small")
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("abc")
    folder("bert", weights=True)
    (cached / "snapshots").mkdir()
    Path("bert").rename(cached / "snapshots/abc")
    done = alone("cut", "hf:me/small", "--upto", "embeddings")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("hf:me/small up to embeddings, with the weights in me/small\n")
    done = alone("cut", "hf:bert-base-uncased", "--upto", "embeddings")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: hf:bert-base-uncased is neither a folder here nor in the cache of Hugging Face, and nothing is "
        "downloaded here. `hf download bert-base-uncased` downloads it, once; or name the folder where it is: "
        "hf:path/to/bert-base-uncased\n"
    )


def test_transformers_is_imported_only_then() -> None:
    folder("bert")
    done = alone("cut", "hf:bert", "--upto", "embeddings", before="sys.modules['transformers'] = None")
    line = "error: a model of Hugging Face needs transformers, which is missing: pip install 'transformers'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)
    done = alone("layers", "alexnet", before="sys.modules['transformers'] = None")
    assert (done.returncode, done.stderr) == (0, "")
