"""Python that asks for modes and for values."""

from __future__ import annotations

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

if {leaf}.training:
    {body}

{v} = {a} if self.training else {b}

mode = "train" if self.training else "eval"
{v} = {a} + len(mode)
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
    {v} = {a} @ torch.ones({a}.shape[-1] + 1, 4)
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

assert {a}.shape[0] < 100, "a small batch"

if {a}.dim() != 3 or {a}.shape[-1] != 4:
    raise ValueError(f"not {{tuple({a}.shape)}}")

{v} = {a} + [0.5, 1.0, 1.5, 2.0, 2.5, 3.0][{a}.shape[1]]

{v} = {a} * float(decimal.Decimal({a}.shape[0]) / 2)

{v} = {a} + sum([0.5] * {a}.shape[1])

{v} = {a} + int(np.prod({a}.shape)) * 0.1

if {a}.device.type == "cpu":
    {v} = {a} + 1
else:
    {v} = {a}

text = str(({a}.sum() > 0).item())
{v} = {a} + len(text)

if any({b} is each for each in ({a}, None)):
    {v} = {a} + 1

if id({a}) == id({b}):
    {v} = {a} * 2

{v} = tree_map(lambda t: t * 2, [{a}, ({b},)])[1][0]

{v} = {a} + torch.arange({a}.shape[1])[:, None] / {a}.shape[0]

if torch.is_grad_enabled():
    {v} = {a} * 0.5

largest = max({a}.shape)
{v} = {a} / largest

for i, row in enumerate({a}.unbind(0)):
    {b} = {b} + row * i

if {a}.shape[0] > 2 and {b}.mean() > 0:
    {v} = {leaf}({a})

for _ in range(1 + int({a}.abs().max() > 3)):
    {a} = {leaf}({a})
"""
