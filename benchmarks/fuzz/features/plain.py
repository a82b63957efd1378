"""Plain computation, in-place work and calls of children; what these are given and return."""

from __future__ import annotations

LEAVES = """
nn.Linear(4, 4)
nn.Linear(4, 4, bias=False)
nn.LayerNorm(4)
nn.ReLU()
nn.ReLU(inplace=True)
nn.LeakyReLU(0.1, True)
nn.Tanh()
nn.Identity()
nn.Dropout(0.0)
nn.Flatten(2)
nn.Hardtanh(inplace=True)
Noise()
Norm()
Norm()
Mean()
Scaled()
Overwrites()
OverwritesInTraining()
OverwritesLarge()
OwnCall()
parametrizations.weight_norm(nn.Linear(4, 4))
parametrizations.spectral_norm(nn.Linear(4, 4))
parametrizations.orthogonal(nn.Linear(4, 4))
nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4))
nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
nn.Sequential(nn.Sequential(Norm(), nn.ReLU()), Noise())
""".strip().split("\n")

GIVEN = """
{a}
{a}
{a}
{a}, {b}
{a}, y={b}
x={a}
{a}, scale=0.5
y={b}, x={a}
{a}, None
{a}, {a}
{a}, {a}[:]
{a}, y={a}.view({a}.shape)
{a}[:], {a}
{a}, {a}.detach()
*({a}, {b})
**dict(x={a}, y={b})
""".strip().split("\n")

OPENINGS = """


if y is not None:
    x = x + y

x = x * scale

if y is None:
    y = x
x = x - y

y = x if y is None else y
x = x + y * scale

if y is not None:
    y.mul_(0.5)

x = x.clone()
if y is not None:
    x.add_(1)
    x = x * y

if x.dim() != 3:
    raise ValueError(f"three dimensions, not {x.dim()}")

assert x.shape[-1] == 4, "four channels"
""".split("\n\n")

# What a block returns, and how its parent comes by a tensor of it.
RETURNED = {
    "{a}": "{}",
    "{a}, {b}": "{}[0]",
    "({b}, [{b}, {a}])": "{}[1][1]",
    "[{a}, None]": "{}[0]",
    "dict(second={b}, first={a})": "{}['first']",
    "{{'first': {a}, 'second': {b}}}": "{}['first']",
    "Output({a}, {b})": "{}.first",
    "Output({a})": "{}.first",
    "Pair({a}, {b})": "{}.first",
    "({a}, {b}) if self.training else {a}": "first({})",
    "({a}, None) if y is None else ({a}, {b})": "{}[0]",
    "({a}, {a}.shape[0])": "{}[0]",
    "{a} if self.training else {a}.clone()": "{}",
    "collections.OrderedDict(first={a}, second={b})": "{}['first']",
}

PURE = """
{v} = {a} + {b}

{v} = {a} * torch.sigmoid({b})

{v} = F.gelu({a})

{v} = {a}.softmax(-1)

{v} = {a} + F.dropout({b}, 1.0, self.training)

{v} = torch.cat([{a}, {b}], 2)[..., 1:5]

{v} = torch.stack([{a}, {b}]).mean(0)

{v} = {a}[..., :2].repeat(1, 1, 2)

{v} = {a}.max(1, keepdim=True)[0] + {b}

p, q = {a}.chunk(2, -1)
{v} = torch.cat([q, p], -1)

n, l, c = {a}.shape
{v} = {a}.reshape(n * l, c).reshape(n, l, c)

{v} = {a}.transpose(1, 2).transpose(1, 2)

{v} = {a}

{v} = {a}[:]

{v} = {a} * self.scale

init self.register_buffer("table{n}", torch.rand(4))
{v} = {a} + self.table{n}

{v} = {a} / {a}.shape[1]

{v} = {a} + table({a}.shape[1])

{v} = {op}({a})

{v} = {op}({a})

{v} = torch.where({a} > 0, {a}, {b})

def helper(t, k=2):
    return t / k
{v} = helper({a})

{v} = (lambda t: t * 0.5 + {b})({a})

{v} = torch.einsum("blc,bkc->blk", {a}, {b}).mean(-1, keepdim=True) + {a}

{v} = F.scaled_dot_product_attention({a}, {b}, {a})
"""

IN_PLACE = """
{a} += {b}

{a}.mul_(0.5)

{a}[:, 0] = {b}[:, -1]

{a}[..., :2] *= 0.5

{a}[{a} > 1] = 0.25

F.relu({a}, inplace=True)

{v} = F.leaky_relu_({a}, 0.2)

part = {a}[..., 1:3]
part += 1

part = {a}.transpose(1, 2)[:, 1:3]
part[:, 0].neg_()

part = {a}.detach().view_as({a})
part -= 0.5

{a}.data.mul_(0.5)

{a}.copy_({b})

with torch.no_grad():
    {v} = torch.mul({a}.detach(), 0.5, out=torch.empty_like({a}))

for item in [{a}, {b}]:
    item.mul_(0.75)

pair = ({a}, {b})
pair[0].add_(1)

{v} = {a}.view(-1, 4).view({a}.shape)
{v}.add_(0.5)

init self.act{n} = nn.ReLU(inplace=True)
self.act{n}({a})

init self.act{n} = nn.Dropout(0.0, inplace=True)
{v} = self.act{n}({a})
{v}.mul_(2)

init self.same{n} = nn.Identity()
{v} = self.same{n}({a})
{a}.mul_(2)

init self.flat{n} = nn.Flatten(2)
{v} = self.flat{n}({a})
{a} += 1

{leaf}({a})

with torch.no_grad():
    self.scale.mul_(0.9)

{a} = {a}.clone()
{a}.sub_(0.25)

{a} = {a} * 1
{a}.clamp_(-1, 1)

{v} = {a}[..., :2]
{v}.add_(1)
{v} = {a}

{a}.unsqueeze(0)[:, :, 0] = 0.5

torch.add({a}.detach(), 1, out={a}.data)

swap = [{a}, {b}]
swap[0].masked_fill_(swap[1].detach() > 0.5, 0.25)

{a}[:] = {leaf}({a})

with torch.no_grad():
    self.scale.data = self.scale.data * 0.9
{v} = {a} * self.scale
"""

CALLS = """
{v} = {call}

{v} = {a} + {call}

{a} = {call}

{v} = {leaf}({a})

{v} = {leaf}({a})

for _ in range(2):
    {a} = {call}

{call}

{leaf}({a})

{v} = {leaf}({a}) + {leaf}({b})

init self.layers{n} = nn.ModuleList([{made}, {made}, {made}])
for layer in self.layers{n}:
    {a} = layer({a})

init self.layers{n} = nn.Sequential({made}, {made})
{v} = self.layers{n}({a})

init self.layers{n} = nn.Sequential({made}, {made}, {made})
{v} = self.layers{n}[:2]({a})

init self.choices{n} = nn.ModuleDict({{"p": {made}, "q": {made}}})
{v} = self.choices{n}["q"](self.choices{n}["p"]({a}))

init self.choices{n} = nn.ModuleDict({{"p": {made}, "q": {made}}})
{v} = {a}
for name, layer in self.choices{n}.items():
    {v} = {v} + layer({a})

init self.layers{n} = nn.ModuleList([{made}, {made}])
{v} = sum(layer({a}) for layer in self.layers{n})

init self.child{n} = {made}
init self.row{n} = nn.Sequential(self.child{n}, {made})
{v} = self.row{n}(self.child{n}({a}))

init self.coder{n} = Coder({made})
{v} = self.coder{n}.encode({a})

init self.coder{n} = Coder({made})
{v} = self.coder{n}({a})

init self.layers{n} = nn.ModuleList([{made}, {made}])
for index in range(len(self.layers{n})):
    {a} = {a} + self.layers{n}[index]({a}) * index

init self.layers{n} = nn.ModuleList([{made}, {made}, {made}])
kept = []
for layer in self.layers{n}:
    {a} = layer({a})
    kept.append({a})
{v} = torch.stack(kept).mean(0)

init self.layers{n} = nn.ModuleList([{made}, {made}])
{v} = functools.reduce(lambda value, layer: layer(value), self.layers{n}, {a})
"""
