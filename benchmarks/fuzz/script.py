"""Writes a case down as a script that runs alone."""

from __future__ import annotations

import textwrap

from benchmarks.fuzz.seeds import Case
from benchmarks.fuzz.trial import Outcome

SCRIPT = '''"""{title}"""
{source}

import copy, pickle, random
import torch
from torch import nn
from truncate import TruncateError, split, truncate


def make():
    torch.manual_seed(0)
    model = Model()
    with torch.no_grad():
        for name, t in [*model.named_buffers(), *model.named_parameters()]:
            if t.is_floating_point() and (t.dim() < 2 or "running_" in name):
                t.copy_(torch.rand(t.shape) * 0.5 + 0.5)
    {flags}
    return model


def inputs(batch=2, length=3, content=0, scale=1.0, optional=False, gradients=False, mode="as cut"):
    generator = torch.Generator().manual_seed(content)
    made = [torch.randn((batch, length, 4), generator=generator) * scale for _ in range(1 + optional)]
    return [t.requires_grad_() for t in made] if gradients else made


def call(module, given):
    return module(given[0], **({{"y": given[1]}} if len(given) > 1 else {{}}))


def clone(value):
    return torch.utils._pytree.tree_map(lambda t: t.clone() if isinstance(t, torch.Tensor) else t, value)


taps = []


def capture(model, run, targets):
    """What hooks see, each call of each target; the gradients at each first tensor go to `taps`."""
    seen, handles = {{}}, []
    for target in targets:
        path = target.partition(":")[0]
        module = dict(model.named_modules(remove_duplicate=False)).get(path)
        if module is None:
            print(target, "is an operation, which no hook captures")
        elif path not in seen:
            calls = seen[path] = []
            if {before}:
                hook = lambda m, args, kwargs, calls=calls: calls.append(clone([*args, *kwargs.values()]))
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                def hook(module, args, out, calls=calls, path=path):
                    for t in [t for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, torch.Tensor)][:1]:
                        if t.requires_grad:
                            t.register_hook(lambda grad, n=len(calls): taps.append((path, n, grad)))
                    calls.append(clone(out))

                handles.append(module.register_forward_hook(hook))
    given = inputs(**run)
    fed = [t.clone() for t in given] if run.get("gradients") else given
    torch.manual_seed(run.get("content", 0))
    call(model, fed)
    for handle in handles:
        handle.remove()
    values = []
    for target in targets:
        path, _, number = target.partition(":")
        calls, number = seen.get(path, []), int(number or -1)
        values.append(calls[number] if -len(calls) <= number < len(calls) else "not run")
    return values, given


def loss(values):
    found = [t for t in torch.utils._pytree.tree_leaves(values) if isinstance(t, torch.Tensor) and t.requires_grad]
    return sum((t * torch.linspace(0.5, 1.5, t.numel()).view(t.shape)).sum() for t in found)


model, whole = make(), make()  # the one that is cut, and the one that is left alone
made = {call}
pieces = list(made) if isinstance(made, tuple) else [made]
{through}
for run in {runs}:
    mode = run.get("mode", "as cut")
    for module in [whole, *pieces] if mode != "as cut" else []:
        module.train(mode == "train")
    expected, left = capture(whole, run, {targets})
    given = inputs(**run)
    value = [t.clone() for t in given] if run.get("gradients") else given
    torch.manual_seed(run.get("content", 0))
    try:
        value = {first}
        for piece in pieces[1:]:
            value = piece(value)
    except (TruncateError, AssertionError) as error:
        print("refused:", error)
        break
    print("run", run)
    print("expected", expected)
    print("got     ", value)
    if run.get("gradients"):
        for name, values, at in (("model", expected, left), ("cut  ", value, given)):
            owner = whole if name == "model" else {owner}
            names = [n for n, _ in owner.named_parameters()]
            grads = torch.autograd.grad(loss(values), [*at, *owner.parameters()], retain_graph=True, allow_unused=True)
            print("gradients", name, {{n: g for n, g in zip(["x", "y"][: len(at)] + names, grads) if g is not None}})
        values = list(value.values() if isinstance(value, dict) else value) if len(expected) > 1 else []
        for n in range(len(values)):
            taps.clear()
            rest = loss(expected[:n] + expected[n + 1 :])
            torch.autograd.grad(rest, [*left, *whole.parameters()], retain_graph=True, allow_unused=True)
            print("gradients of all but output", n, "at the targets of the model (path, call, gradient)", taps)
            tap = torch.utils._pytree.tree_leaves(values[n])[0]
            others = values[:n] + values[n + 1 :]
            found = torch.autograd.grad(loss(others), tap, retain_graph=True, allow_unused=True)
            print("gradient of all but output", n, "at that output of the cut    ", found)
    else:
        print("inputs are left as the model leaves them:", all(map(torch.equal, given, left)))
    theirs = dict(whole.named_buffers(remove_duplicate=False))
    for piece in pieces:
        for name, buffer in piece.named_buffers(remove_duplicate=False):
            if name in theirs and not torch.equal(buffer, theirs[name]):
                print("buffer", name, "expected", theirs[name], "got", buffer)
'''


def script_of(case: Case, outcome: Outcome, name: str) -> str:
    cut = case.cut
    written = str(cut).replace("args=...", _example(case))
    if cut.flags is None:
        flags = "model.eval()"
    elif cut.flags == 0:
        flags = "model.train()"
    else:
        flags = textwrap.indent(
            f"model.train(False)\nchance = random.Random({cut.flags})\nfor module in model.modules():\n"
            "    module.training = chance.random() < 0.5",
            "    ",
        ).strip()
    ways = {
        "": "",
        "deepcopy": "pieces = copy.deepcopy(pieces)",
        "pickle": "pieces = pickle.loads(pickle.dumps(pieces))",
    }
    targets = [""] if cut.how == "split" else list(cut.targets)
    first = "call(pieces[0], value)"
    if cut.how == "after":
        first = f"pieces[0](clone(capture(whole, run, [{cut.after!r}])[0][0]))"
    return SCRIPT.format(
        title=f"Seed {name}: {outcome.kind}: {outcome.cause}",
        source=case.source.strip(),
        flags=flags,
        before=cut.how == "before",
        call=written,
        through=ways[cut.through],
        runs=[_given(run) for run in cut.runs],
        targets=targets,
        first=first,
        owner="pieces[0]" if cut.copy or cut.through else "model",
    )


def _given(run: object) -> dict[str, object]:
    """The fields of a run that differ from the usual ones."""
    usual = vars(type(run)())
    return {name: value for name, value in vars(run).items() if value != usual[name]}


def _example(case: Case) -> str:
    if case.cut.example is None:
        return ""
    given = ", ".join(f"{k}={v!r}" for k, v in _given(case.cut.example).items())
    optional = f", kwargs={{'y': inputs({given})[1]}}" if case.cut.example.optional else ""
    return f"args=(inputs({given})[0],){optional}"
