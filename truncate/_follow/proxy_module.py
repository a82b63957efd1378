"""Proxy modules: they take the place of a model's own modules while one forward is followed.

A proxy module is an instance of a throw-away subclass of the module's class. It has the same Python attributes, but its
parameters, buffers and children are proxies. So the real forward runs, with its helper methods and properties; nothing
global is patched; and what the forward assigns to ``self`` never reaches the model.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import types
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import nn

from truncate._follow.builtins import CachedFunction, builtin_seen, with_own_builtins
from truncate._follow.classes import answers_operators, attributes_set
from truncate._follow.constants import Constant
from truncate._follow.hidden import holds_module, leads_to_module, rebound
from truncate._follow.objects import PLAIN, is_opaque, revive
from truncate._follow.proxy import Proxy, Tracer, Unfollowable
from truncate._follow.replaced import INSTEAD_OF, ORIGINAL_CLASS, POSITION
from truncate._follow.state import Default, OwnState, held_by_class
from truncate._graph import Kind, descend, join, map_nested
from truncate._python import can_be_imported, while_used

_MODULE_STATE = frozenset(vars(nn.Module()))
_REGISTRIES = ("_parameters", "_buffers", "_modules")
_ORIGINAL = "_truncate_original"  # in the __dict__ of an unopened proxy module: its original


class ProxyModules:
    """The proxy modules of a module and of everything inside it, each made when it is needed."""

    def __init__(self, root: nn.Module, tracer: Tracer) -> None:
        self.root = root
        self.tracer = tracer
        self._made: dict[str, Any] = {}
        self.changed: set[str] = set()  # paths of children on which the forward set an attribute
        self.state = OwnState(root)
        self.unseen: set[str] = set()  # attributes that lead to modules which are no proxies
        self.containers: list[Any] = []  # lists and dicts of the modules
        self._paths: dict[int, str] | None = None

    def at(self, path: str, module: nn.Module) -> Any:
        """The proxy module of the module at `path` inside the root."""
        if path not in self._made:
            self._made[path] = self._make(path, module)
        return self._made[path]

    def _make(self, path: str, module: nn.Module) -> Any:
        if isinstance(module, torch.jit.ScriptModule):
            return _Compiled(self.tracer, path)
        kind: Any = type(module)
        proxy = object.__new__(Unopened)
        proxy.__dict__.update({POSITION: (self, path), _ORIGINAL: module})
        if path == "" or answers_operators(kind):
            self.open(proxy)
        return proxy

    def open(self, proxy: Any) -> None:
        """Gives a proxy module its class and attributes. Most are only called and never opened."""
        state = proxy.__dict__
        path, module = state[POSITION][1], state.pop(_ORIGINAL)
        original: Any = type(module)
        proxy.__class__ = _proxy_class(original)
        self._made[path] = proxy  # before its attributes, which may refer to it
        prefix = f"{path}." if path else ""
        attributes = dict(module.__dict__)
        attributes.pop("_compiled_call_impl", None)  # by `module.compile()`: the compiled code holds the original
        if hasattr(attributes.get("forward"), INSTEAD_OF):
            own = getattr(attributes.pop("forward"), INSTEAD_OF)
            attributes.update({} if own is None else {"forward": own})
        state.update(attributes)
        state.pop("training", None)  # a property of ProxyModule
        for tensors in ("_parameters", "_buffers"):
            state[tensors] = _Lazy(
                state[tensors],
                lambda name, value: self.tracer.held(prefix + name, value),
                lambda: self.replaced(path),
            )
        state["_non_persistent_buffers_set"] = set(module._non_persistent_buffers_set)
        children = _Lazy(module._modules, lambda name, value: self.at(prefix + name, value), lambda: self.replaced(""))
        state["_modules"] = children
        kind: Any = type(module)
        changing = attributes_set(kind)
        for name, value in attributes.items():
            if name in _MODULE_STATE:
                continue
            if name in changing:
                del state[name]  # answered by __getattr__ of ProxyModule
            elif type(value) is float:
                state[name] = Constant(value)
            elif type(value) not in PLAIN:
                state[name] = self._translate(value, prefix + name)
                if leads_to_module(state[name], self.tracer):  # the forward must not run it: it would change the model
                    if hasattr(original, name):  # the class would answer instead
                        raise self.tracer.fail(f"may read {prefix + name!r}, which holds modules out of sight")
                    del state[name]
                    self.unseen.add(prefix + name)
        self.state.watch((name, state[name]) for name in attributes.keys() & state.keys() - _MODULE_STATE)
        self.state.watch((name, getattr(kind, name)) for name in held_by_class(kind))

    def replaced(self, path: str) -> None:
        """The forward puts something among the parameters, buffers or children of the module at `path`."""
        if not path:
            raise self.tracer.fail("registers a parameter, buffer or module, for the next call to find")
        self.changed.add(path)

    def _translate(self, value: Any, path: str) -> Any:
        """What the forward finds in a Python attribute, with proxies in place of modules and tensors."""
        if isinstance(value, torch.Tensor):
            return self.tracer.held(path, value)
        if isinstance(value, nn.Module):
            position = self.path_of(value)
            return value if position is None else self.at(position, value)
        if isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
            owner = self._translate(value.__self__, path)
            return types.MethodType(with_own_builtins(value.__func__), owner)
        if isinstance(value, (types.FunctionType, types.BuiltinFunctionType)):
            seen = builtin_seen(with_own_builtins(value))
            if not isinstance(seen, types.FunctionType) or not seen.__closure__:
                return seen
            return rebound(seen, lambda used: self._translate(used, path))
        if isinstance(value, functools.partial):
            function = self._translate(value.func, path)
            return value if function is value.func else functools.partial(function, *value.args, **value.keywords)
        if is_opaque(value) and any(isinstance(item, nn.Module) for item in vars(value).values()):
            state = {name: self._translate(item, f"{path}.{name}") for name, item in vars(value).items()}
            return revive(type(value), state)
        if isinstance(value, (list, tuple, dict, set, collections.deque)):
            return self._container(value, path)
        return value

    def _container(self, value: Any, path: str) -> Any:
        """What the forward sees in place of a list or dict, which it may change: on proxies, a copy."""
        plain = type(value) in (list, tuple, dict)
        if plain and holds_module(value):
            seen = map_nested(value, lambda item: self._translate(item, path) if isinstance(item, nn.Module) else item)
        elif self.tracer.is_on_real_values:
            seen = value
        else:
            seen = map_nested(value, lambda item: item) if plain else copy.copy(value)
        self.containers.append(value)
        return seen

    def attribute(self, name: str, value: Any) -> Any:
        """What the forward finds in an attribute of the root that it may set later."""
        if type(value) in PLAIN:
            return Constant(value) if type(value) is float else value
        seen = self._translate(value, name)
        if leads_to_module(seen, self.tracer):
            raise self.tracer.fail(f"reads {name!r}, which holds modules out of sight")
        self.state.watch([(name, seen)])
        return seen

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The forward runs. Afterwards the objects that its modules hold are again as they were before."""
        attributes = self.at("", self.root).__dict__
        if self.state.drawn_from is not None:
            raise self.refuse_state(self.state.drawn_from)
        before = dict(attributes)
        try:
            yield
        finally:
            changed = self.state.put_back()
        changed = changed or self.state.set_unheard(before, attributes)
        if changed is not None:
            raise self.refuse_state(changed)

    def refuse_state(self, name: str) -> Unfollowable:
        return self.tracer.fail(f"keeps something in its attribute {name!r} from call to call")

    def path_of(self, module: nn.Module) -> str | None:
        """The first path of a module inside the root; None if it is not inside."""
        if self._paths is None:
            named = list(self.root.named_modules(remove_duplicate=False))
            self._paths = {id(found): path for path, found in reversed(named)}
        return self._paths.get(id(module))


class _Lazy(dict):  # type: ignore[type-arg]
    """Parameters, buffers or children by name; each becomes a proxy when it is read."""

    def __init__(self, real: dict[str, Any], make: Callable[[str, Any], Any], replaced: Callable[[], None]) -> None:
        super().__init__(real)
        self._make = make
        self._made: dict[str, Any] = {}
        self._replaced = replaced  # called if an item is set directly, and not by an attribute

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            value = super().__getitem__(name)
            self._made[name] = None if value is None else self._make(name, value)
        return self._made[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._replaced()
        self.assign(name, value)

    def assign(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self._made[name] = value

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default

    def values(self) -> Any:
        return [self[name] for name in self]

    def items(self) -> Any:
        return [(name, self[name]) for name in self]

    def copy(self) -> Any:
        return dict(self.items())


class _Compiled:
    """The proxy module of a TorchScript module: it can be called, and nothing else."""

    def __init__(self, tracer: Tracer, path: str) -> None:
        self._tracer = tracer
        self._path = path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._tracer.child(self._path, args, kwargs)


class Unopened:
    """A proxy module that was at most called so far. When anything else is asked of it, it becomes a `ProxyModule`."""

    _truncate_original_class: Any = None  # `type` replaced for followed code finds the class by `__class__`

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        proxies, path = object.__getattribute__(self, "__dict__")[POSITION]
        return proxies.tracer.child(path, args, kwargs)

    def __getattribute__(self, name: str) -> Any:
        state = object.__getattribute__(self, "__dict__")
        if name == "__dict__":
            return state
        if name == "__class__":  # without opening it: `isinstance` must not change an object
            kind: Any = type(state[_ORIGINAL])
            return _proxy_class(kind)
        state[POSITION][0].open(self)
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__class__":
            object.__setattr__(self, name, value)
        else:
            self.__dict__[POSITION][0].open(self)
            setattr(self, name, value)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


class _Whole(Protocol):
    __dict__: dict[str, Any]

    def forward(self, *args: Any, **kwargs: Any) -> Any: ...


class ProxyModule:
    """What every proxy module does differently from its original class."""

    def __init_subclass__(cls) -> None:
        """Hides the throw-away subclass from a class that registers its subclasses."""

    def __call__(self: _Whole, *args: Any, **kwargs: Any) -> Any:
        position = self.__dict__.get(POSITION)
        if position is None:  # made while the forward ran, such as a slice of a ModuleList
            return self.forward(*args, **kwargs)
        proxies, path = position
        if any(changed == path or changed.startswith(f"{path}.") for changed in proxies.changed):
            raise proxies.tracer.fail(f"sets an attribute of {path!r} and then calls it")
        return proxies.tracer.child(path, args, kwargs)

    def _call_impl(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Where ``nn.Module.__call__(child, x)`` ends."""
        position = self.__dict__.get(POSITION)
        is_root = position is not None and position[1] == ""
        return super()._call_impl(*args, **kwargs) if is_root else self(*args, **kwargs)  # type: ignore[misc]

    @property
    def training(self) -> Any:
        position = self.__dict__.get(POSITION)
        if position is None:
            return False
        proxies, path = position
        tracer, flag = proxies.tracer, join(path, "training")
        if tracer.compares_bools:
            return tracer.decide(flag)
        return Proxy(tracer, lambda: tracer.node(Kind.ATTRIBUTE, flag))

    @training.setter
    def training(self, value: bool) -> None:
        if POSITION in self.__dict__:
            raise self.__dict__[POSITION][0].tracer.fail("changes the mode of a module")

    def __getattr__(self, name: str) -> Any:
        state = self.__dict__
        position = state.get(POSITION)
        if position is None:
            return super().__getattr__(name)  # type: ignore[misc]
        proxies, path = position
        if join(path, name) in proxies.unseen:
            raise proxies.tracer.fail(f"reads {join(path, name)!r}, which holds modules out of sight")
        kind: Any = type(self)
        registered = any(name in state[held] for held in _REGISTRIES)
        if not path and not registered:
            proxies.state.read.add(name)
        if name not in attributes_set(kind) or (registered and not path):
            return super().__getattr__(name)  # type: ignore[misc]
        original = vars(descend(proxies.root, path))
        if name not in original and not proxies.tracer.was_called(path):
            return super().__getattr__(name)  # type: ignore[misc]
        if path:  # the child's own forward sets it
            return proxies.tracer.left_behind(f"{path}.{name}", original.get(name))
        state[name] = proxies.attribute(name, original[name])
        return state[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if POSITION not in self.__dict__:
            object.__setattr__(self, name, value)
            return
        proxies, path = self.__dict__[POSITION]
        tracer = proxies.tracer
        if name in self.__dict__["_modules"] and value is not self.__dict__["_modules"][name]:
            raise tracer.fail(f"puts another module in the place of {join(path, name)!r}")
        for held in (self.__dict__["_buffers"], self.__dict__["_parameters"]):
            if name in held:
                tracer.add(Kind.ASSIGN, join(path, name), (value,))
                held.assign(name, value)
                return
        if path:
            proxies.changed.add(path)  # the real child will not have it
        else:
            if issubclass(type(value), (nn.Module, nn.Parameter)):
                proxies.replaced("")
            if not proxies.state.may_set(name, value):
                raise proxies.refuse_state(name)
        object.__setattr__(self, name, value)

    def __deepcopy__(self, memo: Any) -> Any:
        raise self.__dict__[POSITION][0].tracer.fail("copies a module")

    def register_forward_hook(self, hook: Callable[..., Any], **options: Any) -> Any:
        proxies, path = self.__dict__[POSITION]
        proxies.state.hangs_hooks = True
        return proxies.tracer.hooked(path, hook, options)

    def _refuse_hook(self, *_: Any, **__: Any) -> Any:
        raise self.__dict__[POSITION][0].tracer.refuse_hook()

    register_forward_pre_hook = register_full_backward_hook = register_full_backward_pre_hook = _refuse_hook


def entry_of(proxy: Any) -> Callable[..., Any]:
    """What runs when the original of a proxy module is called: its forward, or an overridden ``__call__``."""
    call = type(proxy).__mro__[2].__call__
    return proxy.forward if call.__module__.startswith("torch.") else functools.partial(call, proxy)


def is_proxy_module(value: Any) -> bool:
    return issubclass(type(value), (ProxyModule, Unopened, _Compiled))


def _proxy_class(cls: type) -> Any:
    return _kept_proxy_class(cls) if can_be_imported(cls) else _new_proxy_class(cls)


@while_used
def _new_proxy_class(cls: type) -> type:
    members: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, ORIGINAL_CLASS: cls}
    for base in reversed(cls.__mro__[: cls.__mro__.index(nn.Module)]):
        for name, value in vars(base).items():
            if isinstance(value, (staticmethod, classmethod)):
                members[name] = type(value)(with_own_builtins(value.__func__))
            elif isinstance(value, property):
                fget, fset, fdel = map(with_own_builtins, (value.fget, value.fset, value.fdel))
                members[name] = property(fget, fset, fdel, value.__doc__)
            elif isinstance(value, (types.FunctionType, CachedFunction)) and not name.startswith("__"):
                members[name] = with_own_builtins(value)
            elif name in attributes_set(cls) and not hasattr(type(value), "__get__"):
                members[name] = Default(name, value)
    return type(cls)(cls.__name__, (ProxyModule, cls), members)


_kept_proxy_class = functools.lru_cache(maxsize=256)(_new_proxy_class)  # no more, as it keeps its classes alive
