"""Tiny models of libraries for graphs, flows, differential equations, spikes, tables and control."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.wild.made import Make, entry
from benchmarks.wild.sequences import vectors


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
        "gcn2": entry(lambda: g.Sequential("x, e", [(g.GCN2Conv(8, 0.1), "x, x, e -> x"), (nn.Linear(8, 2), "x -> x")]),
                      molecule(6), molecule(8)),
        "deep-gcn": entry(lambda: g.Sequential("x, e", [(g.DeepGCNLayer(g.GENConv(8, 8), nn.LayerNorm(8), nn.ReLU()), "x, e -> x"),
                                                        (nn.Linear(8, 2), "x -> x")]), *calls),
        "set-transformer": entry(lambda: g.aggr.SetTransformerAggregation(8, heads=2),
                                 lambda: (torch.randn(12, 8), torch.arange(12) // 4)),
    }  # fmt: skip


def flows() -> dict[str, Make]:
    """Normalising flows of three libraries, called as what gives a density."""

    def normflows(kind: str) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            import normflows as nf

            parts = {
                "realnvp": lambda: [nf.flows.AffineCouplingBlock(nf.nets.MLP([2, 16, 4])), nf.flows.Permute(4)],
                "spline": lambda: [nf.flows.CoupledRationalQuadraticSpline(4, 1, 16)],
                "masked": lambda: [nf.flows.MaskedAffineAutoregressive(4, 16)],
                "residual": lambda: [nf.flows.Residual(nf.nets.LipschitzMLP([4, 16, 4]))],
                "glow": lambda: [nf.flows.ActNorm(4), nf.flows.InvertibleAffine(4)],
            }[kind]
            return nf.NormalizingFlow(nf.distributions.DiagGaussian(4), [part for _ in range(2) for part in parts()])

        return make

    class Density(nn.Module):
        """A flow is a module that gives a distribution; this asks it for densities."""

        def __init__(self, flow: nn.Module) -> None:
            super().__init__()
            self.flow = flow

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.flow().log_prob(x)

    def zuko(kind: str) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            from zuko import flows

            return Density(getattr(flows, kind)(4, transforms=2, hidden_features=(16, 16)))

        return make

    def nflows() -> nn.Module:
        from nflows import transforms
        from nflows.distributions import StandardNormal
        from nflows.flows import Flow

        class Log(Flow):
            """Its forward is closed; what a user calls is `log_prob`."""

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.log_prob(x)

        parts = [transforms.MaskedAffineAutoregressiveTransform(4, 16), transforms.ReversePermutation(4)]
        return Log(transforms.CompositeTransform(parts), StandardNormal([4]))

    calls = [vectors(4), vectors(4, batch=5)]
    return {
        **{f"normflows-{kind}": entry(normflows(kind), *calls) for kind in ("realnvp", "spline", "masked", "residual", "glow")},
        **{f"zuko-{kind}": entry(zuko(kind), *calls) for kind in ("NSF", "MAF", "NICE", "SOSPF")},
        "nflows-maf": entry(nflows, *calls),
    }  # fmt: skip


class Field(nn.Module):
    """The right side of a differential equation."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.outer(torch.tanh(self.inner(y)))


class Solved(nn.Module):
    """A layer before an equation, its solution, and a layer behind."""

    def __init__(
        self, solve: Callable[[nn.Module, torch.Tensor], torch.Tensor], field: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.stem, self.field, self.head = nn.Linear(6, 4), field or Field(), nn.Linear(4, 3)
        self.solve = solve

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.solve(self.field, self.stem(x)))


def _euler(field: nn.Module, y: torch.Tensor) -> torch.Tensor:
    from torchdiffeq import odeint

    return odeint(field, y, torch.linspace(0, 1, 5), method="rk4")[-1]


def _adaptive(field: nn.Module, y: torch.Tensor) -> torch.Tensor:
    from torchdiffeq import odeint

    return odeint(field, y, torch.tensor([0.0, 1.0]), rtol=1e-3, atol=1e-3)[-1]


def _adjoint(field: nn.Module, y: torch.Tensor) -> torch.Tensor:
    from torchdiffeq import odeint_adjoint

    return odeint_adjoint(field, y, torch.tensor([0.0, 1.0]), rtol=1e-3, atol=1e-3)[-1]


def _torchode(field: nn.Module, y: torch.Tensor) -> torch.Tensor:
    import torchode

    term = torchode.ODETerm(field)
    method = torchode.Dopri5(term=term)
    solver = torchode.AutoDiffAdjoint(method, torchode.IntegralController(atol=1e-3, rtol=1e-3, term=term))
    times = torch.linspace(0, 1, 3).repeat(len(y), 1)
    return solver.solve(torchode.InitialValueProblem(y0=y, t_eval=times)).ys[:, -1]


class Noisy(Field):
    noise_type, sde_type = "diagonal", "ito"

    def f(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.outer(torch.tanh(self.inner(y)))

    def g(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.inner(y)[:, :4])


def _stochastic(field: nn.Module, y: torch.Tensor) -> torch.Tensor:
    import torchsde

    return torchsde.sdeint(field, y, torch.tensor([0.0, 1.0]), dt=0.25, method="euler")[-1]


def equations() -> dict[str, Make]:
    """Networks around solvers of differential equations, and recurrent ones of continuous time."""

    def torchdyn() -> nn.Module:
        from torchdyn.core import NeuralODE

        inner = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6))
        return NeuralODE(inner, solver="rk4", return_t_eval=False)

    def liquid(kind: str, **options: Any) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            import ncps.torch

            return getattr(ncps.torch, kind)(6, 8, **options)

        return make

    calls = [vectors(6), vectors(6, batch=5)]
    solvers = {"euler": _euler, "adaptive": _adaptive, "adjoint": _adjoint}
    return {
        **{f"torchdiffeq-{name}": entry(lambda solve=solve: Solved(solve), *calls) for name, solve in solvers.items()},
        "torchode": entry(lambda: Solved(_torchode), *calls),
        "torchsde": entry(lambda: Solved(_stochastic, Noisy()), *calls),
        "torchdyn": entry(torchdyn, *calls),
        "ncps-cfc": entry(liquid("CfC"), vectors(7, 6), vectors(9, 6, batch=3)),
        "ncps-ltc": entry(liquid("LTC"), vectors(5, 6), vectors(6, 6, batch=3)),
    }


def spikes() -> dict[str, Make]:
    """Spiking networks of three libraries, run over a few steps of time."""

    class Steps(nn.Module):
        """A network that carries its potentials through time."""

        def __init__(self) -> None:
            import snntorch

            super().__init__()
            self.inner, self.outer = nn.Linear(6, 8), nn.Linear(8, 3)
            self.first, self.second = snntorch.Leaky(beta=0.9), snntorch.Synaptic(alpha=0.8, beta=0.9)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            one, (two, three), spikes = self.first.init_leaky(), self.second.init_synaptic(), []
            for current in x:
                spike, one = self.first(self.inner(current), one)
                spike, two, three = self.second(self.outer(spike), two, three)
                spikes.append(spike)
            return torch.stack(spikes)

    def hidden() -> nn.Module:
        import snntorch

        parts = nn.Linear(6, 8), snntorch.Leaky(beta=0.9, init_hidden=True), nn.Linear(8, 3)
        return nn.Sequential(*parts, snntorch.Leaky(beta=0.9, init_hidden=True, output=True))

    def jelly(many: bool) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            from spikingjelly.activation_based import functional, layer, neuron

            parts = layer.Linear(6, 8), neuron.LIFNode(), layer.Linear(8, 3), neuron.IFNode()
            net = nn.Sequential(*parts)
            functional.set_step_mode(net, "m" if many else "s")
            return net

        return make

    def norse() -> nn.Module:
        import norse.torch as n

        return n.SequentialState(nn.Linear(6, 8), n.LIFCell(), nn.Linear(8, 3), n.LICell())

    calls = [vectors(4, 6, batch=5), vectors(3, 6, batch=7)]
    return {
        "snntorch-steps": entry(Steps, *calls),
        "snntorch-hidden": entry(hidden, vectors(6)),
        "spikingjelly-step": entry(jelly(False), vectors(6)),
        "spikingjelly-steps": entry(jelly(True), *calls),
        "norse": entry(norse, vectors(6), vectors(6, batch=5)),
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

        config = transformers.T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=2, vocab_size=2, decoder_start_token_id=0,
                                       pad_token_id=0, feed_forward_proj="relu")  # fmt: skip
        config.chronos_config = {"context_length": 32, "prediction_length": 8, "input_patch_size": 8, "input_patch_stride": 8,
                                 "quantiles": [0.1, 0.5, 0.9], "use_reg_token": True}  # fmt: skip
        return ChronosBoltModelForForecasting(config)

    mixed = lambda batch: lambda: (torch.randn(batch, 3), torch.randint(0, 4, (batch, 2)))  # noqa: E731
    rows = lambda batch: lambda: (torch.cat([torch.randint(0, 10, (batch, 3)), torch.rand(batch, 1)], 1),)  # noqa: E731
    ft = {"n_cont_features": 3, "cat_cardinalities": [4, 4], "d_out": 2, "n_blocks": 2, "d_block": 16, "attention_n_heads": 2,
          "attention_dropout": 0.1, "ffn_d_hidden_multiplier": 2.0, "ffn_dropout": 0.1, "residual_dropout": 0.0}  # fmt: skip
    return {
        "tabnet": entry(tabnet, vectors(6, batch=8), vectors(6, batch=5)),
        "rtdl-resnet": entry(rtdl("ResNet", d_in=6, d_out=2, n_blocks=2, d_block=16, d_hidden_multiplier=2.0, dropout1=0.1, dropout2=0.1), vectors(6), vectors(6, batch=5)),
        "rtdl-ft": entry(rtdl("FTTransformer", **ft), mixed(2), mixed(5)),
        **{f"deepctr-{name}": entry(deepctr(name), rows(4), rows(7)) for name in ("DeepFM", "xDeepFM", "DCN", "AutoInt", "WDL", "NFM")},
        "stable-baselines3": entry(policy, lambda: {"obs": torch.randn(2, 4), "deterministic": True}),
        "lightly": entry(lightly, vectors(3, 4, 4), vectors(3, 4, 4, batch=5)),
        "gpytorch": entry(gaussian, vectors(6, batch=4), vectors(6, batch=7)),
        "chronos-bolt": entry(chronos, vectors(32), vectors(24, batch=3)),
    }  # fmt: skip
