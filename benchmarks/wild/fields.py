"""Tiny models of libraries for graphs, functions and tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.wild.inputs import vectors
from benchmarks.wild.made import Make, entry


def graph(nodes: int, edges: int, width: int = 8) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    return lambda: (torch.randn(nodes, width), torch.randint(0, nodes, (2, edges)))


def torch_geometric() -> dict[str, Make]:
    from torch_geometric import nn as g

    calls = [graph(10, 30), graph(14, 40)]
    models = {n: getattr(g, n) for n in ("GCN", "GraphSAGE", "GIN", "GAT", "EdgeCNN")}
    layers: dict[str, Callable[[], nn.Module]] = {
        "GATv2": lambda: g.GATv2Conv(8, 8, heads=2),
        "Cheb": lambda: g.ChebConv(8, 8, 2),
        "TAG": lambda: g.TAGConv(8, 8),
        "SG": lambda: g.SGConv(8, 8, 2),
        "Transformer": lambda: g.TransformerConv(8, 8, heads=2),
        "GINE": lambda: g.GENConv(8, 8),
        "ARMA": lambda: g.ARMAConv(8, 8),
    }

    def stacked(layer: Callable[[], nn.Module]) -> nn.Module:
        width = layer()(*graph(10, 30)()).shape[-1]
        body = (layer(), "x, e -> x"), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 4)
        return g.Sequential("x, e", [body[0], *((part, "x -> x") for part in body[1:])])

    def pooled() -> nn.Module:
        parts = [(g.GCNConv(8, 8), "x, e -> x"), nn.ReLU(), (g.global_mean_pool, "x, b -> x"), nn.Linear(8, 3)]
        return g.Sequential("x, e, b", parts)

    def batch(nodes: int, edges: int) -> Callable[[], tuple[torch.Tensor, ...]]:
        return lambda: (*graph(nodes, edges)(), torch.arange(nodes) // 6)

    def molecule(nodes: int) -> Callable[[], tuple[torch.Tensor, ...]]:
        edges = torch.combinations(torch.arange(nodes)).T
        both = torch.cat([edges, edges.flip(0)], 1)
        return lambda: (torch.randn(nodes, 8), both)

    return {
        **{name.lower(): entry(lambda kind=kind: kind(8, 16, 2, 4), *calls) for name, kind in models.items()},
        "gcn-jumping": entry(lambda: g.GCN(8, 16, 3, 4, jk="cat", norm="batch_norm"), *calls),
        **{f"{name.lower()}-conv": entry(lambda layer=layer: stacked(layer), *calls) for name, layer in layers.items()},
        "pooled": entry(pooled, batch(12, 30), batch(18, 50)),
        "gcn2": entry(
            lambda: g.Sequential("x, e", [(g.GCN2Conv(8, 0.1), "x, x, e -> x"), (nn.Linear(8, 2), "x -> x")]),
            molecule(6),
            molecule(8),
        ),
        "deep-gcn": entry(
            lambda: g.Sequential(
                "x, e",
                [
                    (g.DeepGCNLayer(g.GENConv(8, 8), nn.LayerNorm(8), nn.ReLU()), "x, e -> x"),
                    (nn.Linear(8, 2), "x -> x"),
                ],
            ),
            *calls,
        ),
        "set-transformer": entry(
            lambda: g.aggr.SetTransformerAggregation(8, heads=2), lambda: (torch.randn(12, 8), torch.arange(12) // 4)
        ),
    }


def fields() -> dict[str, Make]:
    """Networks on functions, on points in space and on splines."""

    def operator(name: str, **options: Any) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            from neuralop import models

            return getattr(models, name)(in_channels=1, out_channels=1, hidden_channels=8, **options)

        return make

    def kan() -> nn.Module:
        from kan import KAN

        return KAN(width=[4, 5, 2], grid=3, k=3, auto_save=False, save_act=False)

    def gates() -> nn.Module:
        from e3nn.nn.models.v2106.gate_points_networks import SimpleNetwork

        return SimpleNetwork("4x0e", "2x0e", 2.0, 4.0, 8.0, mul=4, layers=1, lmax=1)

    def points() -> tuple[dict[str, torch.Tensor]]:
        edges = torch.combinations(torch.arange(5)).T
        return ({"pos": torch.randn(5, 3), "x": torch.randn(5, 4), "edge_index": torch.cat([edges, edges.flip(0)], 1)},)

    uno = {
        "n_layers": 3,
        "channel_mlp_skip": "linear",
        "uno_out_channels": [8, 8, 8],
        "uno_n_modes": [[4, 4]] * 3,
        "uno_scalings": [[1, 1]] * 3,
    }
    grids = [vectors(1, 16, 16), vectors(1, 24, 24, batch=3)]
    return {
        "neuralop-fno": entry(operator("FNO", n_modes=(4, 4), n_layers=2), *grids),
        "neuralop-tfno": entry(operator("TFNO", n_modes=(4, 4), n_layers=2), *grids),
        "neuralop-uno": entry(operator("UNO", **uno), *grids),
        "pykan": entry(kan, vectors(4), vectors(4, batch=5)),
        "e3nn": entry(gates, points),
    }


def tables() -> dict[str, Make]:
    """Networks for tables and time series, Gaussian processes, and policies."""

    def tabnet() -> nn.Module:
        from pytorch_tabnet.tab_network import TabNet

        groups = torch.eye(6)
        return TabNet(6, 2, group_attention_matrix=groups)

    def rtdl(name: str, **options: Any) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            import rtdl_revisiting_models as models

            return getattr(models, name)(**options)

        return make

    def deepctr(name: str) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            from deepctr_torch import models
            from deepctr_torch.inputs import DenseFeat, SparseFeat

            columns = [SparseFeat(f"s{i}", 10, 4) for i in range(3)] + [DenseFeat("d", 1)]
            return getattr(models, name)(columns, columns, dnn_hidden_units=(16, 8))

        return make

    def policy() -> nn.Module:
        import gymnasium
        from stable_baselines3.common.policies import ActorCriticPolicy

        box = gymnasium.spaces.Box(-1, 1, (4,))
        return ActorCriticPolicy(box, gymnasium.spaces.Discrete(3), lambda _: 0.1)

    def lightly() -> nn.Module:
        from lightly.models.modules import SimCLRProjectionHead

        return nn.Sequential(nn.Flatten(), SimCLRProjectionHead(48, 32, 16))

    def gaussian() -> nn.Module:
        import gpytorch

        class Deep(nn.Module):
            """A kernel on features, evaluated."""

            def __init__(self) -> None:
                super().__init__()
                self.features = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
                self.kernel = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.kernel(self.features(x)).to_dense()

        return Deep()

    def chronos() -> nn.Module:
        import transformers
        from chronos.chronos_bolt import ChronosBoltModelForForecasting

        config = transformers.T5Config(
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=2,
            vocab_size=2,
            decoder_start_token_id=0,
            pad_token_id=0,
            feed_forward_proj="relu",
        )
        config.chronos_config = {
            "context_length": 32,
            "prediction_length": 8,
            "input_patch_size": 8,
            "input_patch_stride": 8,
            "quantiles": [0.1, 0.5, 0.9],
            "use_reg_token": True,
        }
        return ChronosBoltModelForForecasting(config)

    mixed = lambda batch: lambda: (torch.randn(batch, 3), torch.randint(0, 4, (batch, 2)))  # noqa: E731
    rows = lambda batch: lambda: (torch.cat([torch.randint(0, 10, (batch, 3)), torch.rand(batch, 1)], 1),)  # noqa: E731
    ft = {
        "n_cont_features": 3,
        "cat_cardinalities": [4, 4],
        "d_out": 2,
        "n_blocks": 2,
        "d_block": 16,
        "attention_n_heads": 2,
        "attention_dropout": 0.1,
        "ffn_d_hidden_multiplier": 2.0,
        "ffn_dropout": 0.1,
        "residual_dropout": 0.0,
    }
    return {
        "tabnet": entry(tabnet, vectors(6, batch=8), vectors(6, batch=5)),
        "rtdl-resnet": entry(
            rtdl(
                "ResNet", d_in=6, d_out=2, n_blocks=2, d_block=16, d_hidden_multiplier=2.0, dropout1=0.1, dropout2=0.1
            ),
            vectors(6),
            vectors(6, batch=5),
        ),
        "rtdl-ft": entry(rtdl("FTTransformer", **ft), mixed(2), mixed(5)),
        **{
            f"deepctr-{name}": entry(deepctr(name), rows(4), rows(7))
            for name in ("DeepFM", "xDeepFM", "DCN", "AutoInt", "WDL", "NFM")
        },
        "stable-baselines3": entry(policy, lambda: {"obs": torch.randn(2, 4), "deterministic": True}),
        "lightly": entry(lightly, vectors(3, 4, 4), vectors(3, 4, 4, batch=5)),
        "gpytorch": entry(gaussian, vectors(6, batch=4), vectors(6, batch=7)),
        "chronos-bolt": entry(chronos, vectors(32), vectors(24, batch=3)),
    }
