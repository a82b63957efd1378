"""More of `features`, in the same language: Python that asks for values, modes, state, containers, hooks, gradients."""

from __future__ import annotations

from benchmarks.fuzz.features import CALLS, IN_PLACE, PURE

MODES = """
if self.training:
    {body}

if not self.training:
    {body}

if self.training:
    {body}
else:
    {body}

if self.training:
    {v} = {call}
else:
    {v} = {b}

if self.training:
    {call}

{v} = {a} if self.training else {call}

if self.training is True:
    {v} = {a} * 0.5

if self.training and y is not None:
    {body}

if self.training == {leaf}.training:
    {v} = {a} + 1

{v} = {call} if not self.training else {leaf}({a})

for _ in range(2 if self.training else 1):
    {v} = {leaf}({a})
"""

STATE = """
init self.register_buffer("mean{n}", torch.zeros(4))
if self.training:
    mean = {a}.mean((0, 1))
    self.mean{n}.mul_(0.9).add_(mean.detach() * 0.1)
else:
    mean = self.mean{n}
{v} = {a} - mean

init self.register_buffer("mean{n}", torch.zeros(4))
if self.training:
    self.mean{n} = 0.9 * self.mean{n} + 0.1 * {a}.detach().mean((0, 1))
else:
    {v} = {a} - self.mean{n}

init self.register_buffer("mean{n}", torch.zeros(4))
if self.training:
    self.mean{n}.copy_({a}.detach().mean((0, 1)))
{v} = {a} - self.mean{n}

init self.norm{n} = Norm()
kept = self.norm{n}({a})
if not self.training:
    {a} = kept

init self.norm{n} = Norm()
if self.training:
    self.norm{n}({a})
else:
    {a} = self.norm{n}({a})

init self.register_buffer("count{n}", torch.zeros(()))
self.count{n} += 1
{v} = {a} + self.count{n}

init self.register_buffer("count{n}", torch.ones(()))
self.count{n} = self.count{n} * 0.5
{v} = {a} - self.count{n}

init self.register_buffer("count{n}", torch.zeros(()))
{v} = {a} + self.count{n}
self.count{n}.add_(1)

init self.register_buffer("last{n}", torch.zeros(4))
{v} = {a} - self.last{n}
with torch.no_grad():
    self.last{n}.copy_({v}[0, 0])

self.kept{n} = {a}
{v} = self.kept{n} + 1

{leaf}.factor = 2
{v} = {leaf}({a})

init self.calls{n} = 0
self.calls{n} += 1
{v} = {a} * self.calls{n}

init self.cache{n} = None
if self.cache{n} is None:
    self.cache{n} = {a}.detach().mean()
{v} = {a} - self.cache{n}

init self.past{n} = []
self.past{n}.append({a}.detach().mean())
{v} = {a} + len(self.past{n})

init self.ema{n} = torch.zeros(4)
self.ema{n} = self.ema{n} * 0.5 + {a}.detach().mean((0, 1))
{v} = {a} + self.ema{n}

init self.child{n} = {made}
init self.twin{n} = self.child{n}
{v} = self.child{n}({a}) + self.twin{n}({b})

init self.one{n}, self.two{n} = nn.Linear(4, 4), nn.Linear(4, 4)
init self.two{n}.weight = self.one{n}.weight
{v} = self.two{n}(self.one{n}({a}))

init self.lin{n} = nn.Linear(4, 4)
with torch.no_grad():
    self.lin{n}.weight.mul_(0.5)
{v} = self.lin{n}({a})

init self.lin{n} = nn.Linear(4, 4)
{v} = F.linear({a}, self.lin{n}.weight, self.lin{n}.bias)

init self.gain{n} = nn.ParameterList([nn.Parameter(torch.rand(4)), nn.Parameter(torch.rand(4))])
{v} = {a} * self.gain{n}[1] + self.gain{n}[0]
"""

VALUES = """
if {a}.sum() > 0:
    {body}

if {a}.sum() > 0:
    {v} = {call}
else:
    {v} = {b}

if {a}.abs().max() > 3:
    {v} = {a} * 0.25

if {a}.shape[0] > 2:
    {body}

if {a}.shape[1] > 3:
    {v} = {call}
else:
    {v} = {a}

for i in range({a}.shape[1]):
    {b} = {b} + {a}[:, i : i + 1]

for row in {a}:
    {b} = {b} + row

for part in {a}.unbind(-1):
    {b} = {b} + part.unsqueeze(-1)

for part in {a}.split(2):
    last = {leaf}(part)
{v} = {a} + last.mean()

{v} = torch.stack([row * 0.5 for row in {a}])

{v} = {a} / len({b})

{v} = {a} * int({b}.shape[1])

{v} = {a} * {b}.mean().item()

{v} = {a} + sum(2 for size in {b}.shape if size > 2)

{v} = {a} * math.sqrt({a}.shape[1]) + {b}.size(0)

if isinstance({a}, Tensor) and {a}.dim() == 3:
    {v} = {a} + 1
else:
    {v} = {a}

{v} = {a}
while {v}.abs().max() > 2:
    {v} = {v} * 0.5

while {a}.abs().max() > 4:
    {a} = {leaf}({a}) * 0.1

steps = {{2: 1.0, 3: 2.0}}
{v} = {a} * steps.get({a}.shape[0], 0.5)

if y is not None and y.shape == {a}.shape:
    {body}

if y is None:
    {body}

try:
    {v} = {a} @ torch.ones({a}.shape[0] + 2, 4)
except RuntimeError:
    {v} = {a} * 2

try:
    {v} = {leaf}({a})
except ValueError:
    {v} = {b}

if {a}.requires_grad:
    {v} = {a} * 2

if {a}.dtype == torch.float32:
    {v} = {a} + 1

{v} = {a} + (1 if {a} is {b} else 0)

match {a}.shape[0]:
    case 2:
        {v} = {a} * 2
    case _:
        {v} = {a}

top = {a}.flatten(1).argmax(1)
{v} = {a} + top.float()[:, None, None]

mask = {a}[0, :, 0] > 0
{v} = {b} + {a}[:, mask].sum(1, keepdim=True)

kind = Kind.LARGE if {a}.shape[1] > 3 else Kind.SMALL
{v} = {a} * kind.value

{v} = {a} * float({a}.abs().mean() > 0.5)

{v} = {a} + ({a}.mean() > 0)

text = f"{{{a}.shape[0]}}"
{v} = {a} + len(text)
"""

CONTAINERS = """
{list}.append({a})

{list}.append({leaf}({a}))
{v} = {list}[-1]

for item in {list}:
    {a} = {a} + item

{v} = {a} + len({list})

if {list}:
    {v} = {a} + {list}[-1]

if self.training:
    {list}.append({a})

if {a}.abs().max() > 3:
    {list}.append({a})

if {list}:
    {list}[0].mul_(0.5)

{list}[:] = [{a}]

{v} = sum({list}, {a})

{dict}["k"] = {a}

{dict}.setdefault("j", {leaf}({a}))
{v} = {a} + {dict}["j"]

if "k" in {dict}:
    {v} = {a} + {dict}["k"]

for value in {dict}.values():
    {a} = {a} - value

{dict}.update(p={a}, q={b})

if self.training:
    {dict}["t"] = {leaf}({a})

if {box}.value is not None:
    {a} = {a} + {box}.value

{box}.value = {leaf}({a})
{v} = {a} + {box}.value

{box}.items.append({a})

{box}.items.append({leaf}({a}))

for item in {box}.items:
    {a} = {a} + item

if {box}.value is None:
    {box}.value = {a}
else:
    {box}.value.add_(1)

{box}.value = {a}.mean() if {box}.value is None else {box}.value + {a}.mean()

{v} = {a} * (1 + len({box}.items))

states = [{a}, {b}]
states[0] = {leaf}(states[0])
{v} = sum(states)

queue = collections.deque([{a}, {b}], maxlen=2)
queue.append({leaf}({a}))
{v} = queue[0] + queue[1]

pairs = [(name, item) for name, item in zip("pq", ({a}, {b}))]
{v} = dict(pairs)["q"] * 2

{v} = copy.copy([{a}, {b}])[0] + 1

named = types.SimpleNamespace(value={a})
{v} = named.value + 1

found = {{{a}.shape[0], 3}}
{v} = {a} * len(found)

out = Output({a})
out.second = {leaf}(out.first)
{v} = out.second

it = iter([{a}, {b}])
next(it)
{v} = next(it) + 1
"""

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
"""


def paragraphs(text: str) -> list[str]:
    return text.strip("\n").split("\n\n")


# By subject, with how often each is drawn beside the others.
SUBJECTS = {
    "pure": (PURE, 3),
    "in place": (IN_PLACE, 4),
    "calls": (CALLS, 5),
    "modes": (MODES, 3),
    "state": (STATE, 3),
    "values": (VALUES, 2),
    "containers": (CONTAINERS, 4),
    "hooks": (HOOKS, 2),
    "gradients": (GRADIENTS, 2),
    "random": (RANDOM, 1),
    "odd": (ODD, 1),
}
