"""What stands around calls: hooks, other ways to call, gradients, random numbers; and what is refused, mostly."""

from __future__ import annotations

HOOKS = """
init self.hooked{n} = nn.Linear(4, 4)
init self.hooked{n}.register_forward_hook(doubles)
{v} = self.hooked{n}({a})

init self.hooked{n} = {made}
init self.hooked{n}.register_forward_pre_hook(shifts)
{v} = self.hooked{n}({a})

init self.hooked{n} = {made}
init self.hooked{n}.register_forward_hook(looks)
self.hooked{n}({a})
{v} = self.hooked{n}.seen * 0.5

init self.hooked{n} = nn.Linear(4, 4)
init self.bag{n} = []
init self.hooked{n}.register_forward_hook(lambda m, args, out: self.bag{n}.append(out))
self.bag{n}.clear()
self.hooked{n}({a})
{v} = self.bag{n}[0] + 1

init self.register_forward_hook(looks)
{v} = {a} + 1

init self.hidden{n} = [{made}]
{v} = self.hidden{n}[0]({a})

init self.inner{n} = {made}
init self.run{n} = lambda t: self.inner{n}(t)
{v} = self.run{n}({a})

init self.inner{n} = {made}
init self.run{n} = self.inner{n}.forward
{v} = self.run{n}({a})

init self.inner{n} = {made}
{v} = self.inner{n}.forward({a})

init self.inner{n} = {made}
{v} = nn.Module.__call__(self.inner{n}, {a})

init self.inner{n} = nn.Sequential({made}, {made})
{v} = {a}
for child in self.inner{n}.children():
    {v} = child({v})

init self.inner{n} = {made}
def run(module, value):
    return module(value) * 0.5
{v} = run(self.inner{n}, {a})

init self.inner{n} = {made}
{v} = dict(self.named_children())["inner{n}"]({a})

init self.inner{n} = nn.Linear(4, 4)
init parametrize.register_parametrization(self.inner{n}, "weight", Doubled())
with parametrize.cached():
    {v} = self.inner{n}(self.inner{n}({a}))

{leaf}.eval()
{v} = {leaf}({a})

init self.helper{n} = Helper({made})
{v} = self.helper{n}({a})

init self.inner{n} = {made}
init self.helper{n} = Helper(self.inner{n})
{v} = self.helper{n}({a})

init self.hooked{n} = {made}
handle = self.hooked{n}.register_forward_hook(looks)
{v} = self.hooked{n}({a})
handle.remove()

init self.hooked{n} = {made}
init self.found{n} = {{}}
init self.hooked{n}.register_forward_hook(lambda m, args, out: self.found{n}.update(k=out))
self.hooked{n}({a})
{v} = self.found{n}["k"] * 0.5

init self.hooked{n} = {made}
init self.hooked{n}.register_full_backward_hook(lambda m, into, out: None)
{v} = self.hooked{n}({a})

init self.inner{n} = {made}
init self.methods{n} = {{"run": self.inner{n}}}
{v} = self.methods{n}["run"]({a})

init self.inner{n} = {made}
{v} = functools.partial(self.inner{n}, {a})()

init self.inner{n} = {made}
{v} = list(map(self.inner{n}, [{a}, {b}]))[0]

init self.inner{n} = {made}
{v} = getattr(self, "inner{n}")({a})

init self.inner{n} = {made}
{v} = self.get_submodule("inner{n}")({a})
"""

GRADIENTS = """
with torch.no_grad():
    {body}

with torch.enable_grad():
    {v} = {leaf}({a})

{v} = without_gradient({a}) + {b}

{v} = {a}.detach() + {b}

{v} = checkpoint({leaf}, {a}, use_reentrant=False)

{v} = checkpoint({leaf}, {a}, use_reentrant=False) if self.training else {leaf}({a})

init self.part{n} = nn.Sequential({made}, {made})
{v} = checkpoint(self.part{n}, {a}, use_reentrant=False)
{v}.mul_(0.5)

{v} = Straight.apply({a}) + {b}

{v} = Twice.apply({a})

{v} = {a} + ({b} - {a}).detach()

if {a}.requires_grad:
    {a}.register_hook(lambda grad: grad * 2)
{v} = {a} + 1

with torch.autocast("cpu", enabled=False):
    {v} = {leaf}({a})

with torch.autocast("cpu", dtype=torch.bfloat16):
    {v} = {leaf}({a}).float()

with torch.set_grad_enabled(self.training):
    {v} = {leaf}({a})

{v} = {leaf}({a})
{v}.mul_(2)
{v} = {v} + {a}
"""

# What draws from torch's generator. One of these at most in a model, as what a cut drops shifts later numbers.
RANDOM = """
{v} = F.dropout({a}, 0.5, self.training)

{v} = {a} + torch.rand_like({a})

init self.drop{n} = nn.Dropout(0.5)
{v} = self.drop{n}({a})

init self.drop{n} = nn.Dropout(0.5, inplace=True)
{v} = self.drop{n}({a})

if self.training:
    {v} = {a} * torch.rand({a}.shape[0], 1, 1)
"""

# What is refused, mostly.
ODD = """
torch.manual_seed(7)
{v} = {a} + torch.rand_like({a})

{v} = {a} + torch.from_numpy({b}.detach().numpy())

{v} = torch.vmap(lambda row: row * 2)({a})

{v} = appends({a})

{v} = {a} * torch.FloatTensor([1, 2, 3, 4])

{v} = {a} + torch.tensor([1.0, 2.0, 3.0, 4.0])

{v} = {a}.new_zeros({a}.shape) + {a}

{v} = {a} + torch.zeros_like({a}).to({a}.device, {a}.dtype)

self.train(self.training)
{v} = {a} + 1

with torch.inference_mode():
    {v} = {a} * 2
{v} = {v}.clone()

part = {a}.clone()
part.data = {b}.data
{v} = part + 1

grad = torch.autograd.grad(({a} * {a}).sum(), {a})[0] if {a}.requires_grad else {a}
{v} = {a} + grad.detach()

if hasattr({a}, "shape"):
    {v} = {a} * 0.5

{v} = {a} + getattr(self, "nothing", 0)

{v} = torch.compiler.disable(lambda t: t + 1)({a})

generator = torch.Generator().manual_seed(3)
{v} = {a} + torch.rand({a}.shape, generator=generator)

{v} = {a} + random.Random(3).random()

state = torch.get_rng_state()
{v} = {a} + 1
torch.set_rng_state(state)

{leaf}.train(self.training)
{v} = {leaf}({a})
"""
