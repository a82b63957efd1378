"""Tiny models of libraries for flows, differential equations and spikes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.wild.inputs import vectors
from benchmarks.wild.made import Make, entry


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
        **{
            f"normflows-{kind}": entry(normflows(kind), *calls)
            for kind in ("realnvp", "spline", "masked", "residual", "glow")
        },
        **{f"zuko-{kind}": entry(zuko(kind), *calls) for kind in ("NSF", "MAF", "NICE", "SOSPF")},
        "nflows-maf": entry(nflows, *calls),
    }


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
