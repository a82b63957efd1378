"""What is kept from call to call, and in lists, dicts and objects."""

from __future__ import annotations

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
    {v} = {a}
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

init self.gain{n} = Gain()
self.gain{n}.factor = 2
{v} = self.gain{n}({a})

init self.gain{n} = Gain()
self.gain{n}.factor = {a}.mean()
{v} = self.gain{n}({b})

init self.calls{n} = 0
self.calls{n} += 1
{v} = {a} * self.calls{n}

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

init self.remembers{n} = Remembers()
{v} = self.remembers{n}({a}) + self.remembers{n}.seen

init self.remembers{n} = Remembers()
self.remembers{n}({a})
{v} = self.remembers{n}.seen * 2

init self.slow{n}, self.fast{n} = nn.Linear(4, 4), nn.Linear(4, 4)
if self.training:
    with torch.no_grad():
        self.slow{n}.weight.lerp_(self.fast{n}.weight, 0.5)
{v} = self.slow{n}({a}) + self.fast{n}({b})

init self.words{n} = nn.Embedding(10, 4, max_norm=1.0)
{v} = {a} + self.words{n}(torch.arange({a}.shape[1]))

init self.norm{n} = nn.BatchNorm1d(4)
if self.training:
    self.norm{n}({a}.flatten(0, 1))
{v} = {a} - self.norm{n}.running_mean

init self.register_buffer("large{n}", torch.zeros(()))
if {a}.abs().max() > 3:
    self.large{n}.add_(1)
{v} = {a} + self.large{n}

init self.register_buffer("ring{n}", torch.zeros(2, 4))
if self.training:
    self.ring{n}[0] = {a}.detach()[0, 0]
{v} = {a} + self.ring{n}.mean(0)
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

init self.several{n} = Several({made})
out = self.several{n}({a})
out.append({b})
{v} = out[1] + out[-1]

init held = []
init self.fills{n}, self.reads{n} = Fills(held, {made}), Reads(held)
{v} = self.reads{n}(self.fills{n}({a}))

init held = []
init self.fills{n}, self.reads{n} = Fills(held, {made}), Reads(held)
self.fills{n}({a})
{v} = self.reads{n}({b})

init self.writes{n} = Writes({made})
self.writes{n}({a}, {box})
{v} = {a} + {box}.value

init self.writes{n}, self.again{n} = Writes({made}), Writes({made})
self.writes{n}({a}, {box})
{v} = self.again{n}({b}, {box}) * {box}.count + sum({box}.items)

{box}.count += 1
{v} = {a} * {box}.count

seen = {{*()}}
seen.add("k" if self.training else "j")
{v} = {a} + len(seen) * ("k" in seen)

{dict}["inner"] = [{a}]
{dict}["inner"].append({leaf}({b}))
{v} = {dict}["inner"][-1]

{list} += [{leaf}({a}), {b}]

{list}.append({a})
{v} = {list}.pop() * 0.5

head, *rest = [{a}, {b}, {leaf}({a})]
{v} = head + rest[-1]

match {{"k": {a}}}:
    case {{"k": value}}:
        {v} = value + 1
    case _:
        {v} = {a}
"""
