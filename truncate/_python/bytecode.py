"""What the calling code is about to do with a value, where only the bytecode tells."""

from __future__ import annotations

import bisect
import dataclasses
import dis
import functools
import inspect
from types import CodeType, FrameType, NoneType
from typing import Any

from truncate._python.frames import source_line


@functools.lru_cache(maxsize=4096)
def _instructions(code: CodeType) -> tuple[list[dis.Instruction], dict[int, int]]:
    instructions = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "EXTENDED_ARG", "NOT_TAKEN")]
    return instructions, {instruction.offset: position for position, instruction in enumerate(instructions)}


def _here(frame: FrameType) -> tuple[list[dis.Instruction], int]:
    instructions, _ = _instructions(frame.f_code)
    # While a function written in Python is called, `f_lasti` may lie after the start of the instruction.
    here = bisect.bisect_right(instructions, frame.f_lasti, key=lambda instruction: instruction.offset) - 1
    return instructions, here if here >= 0 else len(instructions)


def unpacked_items(frame: FrameType) -> int | None:
    """How many items ``a, b, c = value`` unpacks, if this is what the frame is doing."""
    instructions, here = _here(frame)
    if here < len(instructions) and instructions[here].opname == "UNPACK_SEQUENCE":
        return instructions[here].arg
    return None


def demanded(frame: FrameType) -> tuple[bool, str | None] | None:
    """The truth value with which the frame goes on, if it raises for the other one: at an ``assert``, or ``if: raise``.

    An error that the same function catches does not count: then the function goes on for both values.

    With it comes the source of the condition; None where the other value does not always raise, as in ``if a and b``.
    """
    instructions, here = _here(frame)
    if here < len(instructions) and instructions[here].argrepr.startswith("bool("):  # a comparison that gives a bool
        here += 1
    while here < len(instructions) and instructions[here].opname in ("TO_BOOL", "COPY"):
        here += 1
    jump = instructions[here] if here < len(instructions) else None
    if jump is None or "POP_JUMP" not in jump.opname or not jump.opname.endswith(("IF_TRUE", "IF_FALSE")):
        return None
    target, jumps_if = _instructions(frame.f_code)[1].get(jump.argval, 0), jump.opname.endswith("IF_TRUE")
    text = source_line(frame.f_code.co_filename, frame.f_lineno)
    leads_back = _leads_out_of_raise(frame.f_code, here + 1, target)
    if leads_back is not None:
        return jumps_if, None if leads_back else text
    return (not jumps_if, text) if _raises_at_once(frame.f_code, target) else None


def _leads_out_of_raise(code: CodeType, start: int, end: int) -> bool | None:
    """Whether instructions that end by raising may jump to their end; None if they do not raise, or jump elsewhere."""
    instructions, positions = _instructions(code)
    block = instructions[start:end]
    if not block or not _ends(block[-1], code) or any(i.opname.startswith("RETURN") for i in block):
        return None
    targets = {positions.get(i.argval, -1) for i in block if "JUMP" in i.opname or i.opname in ("FOR_ITER", "SEND")}
    return end in targets if all(start <= target <= end for target in targets) else None


def _raises_at_once(code: CodeType, start: int) -> bool:
    for instruction in _instructions(code)[0][start:]:
        if instruction.opname == "RAISE_VARARGS":
            return _ends(instruction, code)
        if "JUMP" in instruction.opname or instruction.opname.startswith(("RETURN", "FOR_ITER", "SEND")):
            break
    return False


def _ends(instruction: dis.Instruction, code: CodeType) -> bool:
    """Whether an instruction raises an error that leaves the function."""
    caught = any(start <= instruction.offset < end for start, end in _caught(code))
    return instruction.opname == "RAISE_VARARGS" and not caught


def is_only_asked(frame: FrameType, at_once: bool) -> bool:
    """Whether the frame only branches on what it computes: ``if n > 1``; or, unless `at_once`, stores it."""
    instructions, here = _here(frame)
    if here >= len(instructions) or instructions[here].argrepr.startswith("bool("):
        return here < len(instructions)
    following = [i.opname for i in instructions[here + 1 : here + 3] if i.opname != "TO_BOOL"]
    return following[:1] != [] and following[0].startswith(("POP_JUMP",) if at_once else ("POP_JUMP", "STORE_"))


def has_one_outcome(frame: FrameType) -> bool:
    """Whether the frame branches on ``value and self.name`` where the attribute is False: then no value matters."""
    instructions, here = _here(frame)
    asked = [i for i in instructions[here : here + 8] if i.opname not in ("TO_BOOL", "NOP")]
    if len(asked) < 4 or "_IF_FALSE" not in asked[0].opname or "_IF_FALSE" not in asked[3].opname:
        return False
    holder = frame.f_locals.get(asked[1].argval) if asked[1].opname.startswith("LOAD_FAST") else None
    value = inspect.getattr_static(holder, asked[2].argval, None) if asked[2].opname == "LOAD_ATTR" else None
    return value is False and asked[0].argval == asked[3].argval


def compared_device_type(frame: FrameType, own: str) -> str | None:
    """What the frame compares the type of the device that it is reading with: ``x.device.type == "cuda"``.

    The result is `own`, the actual type, for ``x.device.type in (...)``, and None if nothing is compared.
    """
    instructions, here = _here(frame)
    asked = instructions[here + 1 : here + 4]
    if len(asked) < 3 or asked[0].opname != "LOAD_ATTR" or asked[0].argval != "type":
        return None
    if asked[1].opname == "LOAD_CONST" and asked[2].opname == "COMPARE_OP" and isinstance(asked[1].argval, str):
        return asked[1].argval
    return own if "CONTAINS_OP" in (asked[1].opname, asked[2].opname) else None


@functools.lru_cache(maxsize=4096)
def _caught(code: CodeType) -> tuple[tuple[int, int], ...]:
    """The ranges of a function from which an ``except`` or ``finally`` takes errors; a ``with`` does not count."""
    instructions, positions = _instructions(code)
    bytecode: Any = dis.Bytecode(code)
    found = []
    for entry in bytecode.exception_entries:
        handler = positions.get(entry.target, 0)
        if all(i.opname != "WITH_EXCEPT_START" for i in instructions[handler : handler + 3]):
            found.append((entry.start, entry.end))
    return tuple(found)


@functools.lru_cache(maxsize=4096)
def names_in(code: CodeType) -> frozenset[str]:
    """The globals and attributes that a function names, in its lambdas and comprehensions too."""
    return frozenset(code.co_names).union(*map(names_in, _inside(code)))


@functools.lru_cache(maxsize=4096)
def attributes_stored(code: CodeType) -> frozenset[str]:
    """The names of all attributes that a function assigns to, on any object."""
    own = frozenset(i.argval for i in _instructions(code)[0] if i.opname == "STORE_ATTR")
    return own.union(*map(attributes_stored, _inside(code)))


def _inside(code: CodeType) -> list[CodeType]:
    """The code of the functions defined inside a function."""
    return [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def only_shows_text(frame: FrameType) -> bool:
    """Whether the text that the frame makes only goes into an error, or into a call whose result is dropped."""
    instructions, here = _here(frame)
    ends = [position for position, i in enumerate(instructions) if i.opname.startswith(_ENDS) or "JUMP" in i.opname]
    begin = max((position + 1 for position in ends if position < here), default=0)
    end = min((position for position in ends if position >= here), default=len(instructions) - 1)
    after = [i.opname for i in instructions[here : end + 1]]
    if "BUILD_STRING" in after:
        after = after[after.index("BUILD_STRING") :]
    used = [name for name in after[1:] if name not in ("NOP", "FORMAT_VALUE", "FORMAT_SIMPLE")]
    by_format = any(i.argval == "format" for i in instructions[begin:here])
    calls = sum(name.startswith("CALL") for name in after)
    if calls != 1 + by_format or used[0].startswith(_USING):
        return False
    first = next(i.opname for i in instructions[begin:] if i.opname not in ("PUSH_NULL", "NOP", "RESUME"))
    return after[-1] == "RAISE_VARARGS" or (after[-1] == "POP_TOP" and first in ("LOAD_GLOBAL", "LOAD_NAME"))


_ENDS = ("POP_TOP", "RAISE_VARARGS", "STORE_", "RETURN_", "YIELD_")
_USING = ("COMPARE_OP", "CONTAINS_OP", "IS_OP", "BINARY_", "BUILD_MAP", "LOAD_ATTR", "LOAD_METHOD")


@functools.lru_cache(maxsize=4096)
def asks_unheard(code: CodeType) -> str | None:
    """A question that a function asks about values and that never reaches a proxy."""
    instructions, _ = _instructions(code)
    if any(instruction.opname.startswith("MATCH_") for instruction in instructions):
        return "asks for the class or the items of a value with `match`"
    return "compares two values with `is`" if compares_two(code) else None


@functools.lru_cache(maxsize=4096)
def compares_two(code: CodeType) -> bool:
    """Whether a function asks if two of its values are the same object."""
    instructions, _ = _instructions(code)
    return any(
        instruction.opname == "IS_OP" and not _is_of_constant(instructions, position)
        for position, instruction in enumerate(instructions)
    )


def _is_of_constant(instructions: list[dis.Instruction], position: int) -> bool:
    """Whether one side of ``is`` is a constant, a global or what the module holds, and so no value of a forward."""
    last = instructions[position - 1]
    if last.opname.startswith("LOAD_FAST"):
        if len(_names(last)) > 1:  # both sides
            return False
        position -= 1
        last = instructions[position - 1]
    return last.opname == "LOAD_CONST" or base_of(instructions, position - 1)[0] in (None, "self")


@functools.lru_cache(maxsize=4096)
def changes_parameter(code: CodeType, filling: frozenset[str]) -> bool:
    """Whether a function has ``given.x = y`` or ``given.x[0] = y``, or calls a method named in `filling` on a part."""
    instructions, _ = _instructions(code)
    given = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]) - {"self"}
    for position, instruction in enumerate(instructions):
        if instruction.opname == "STORE_SUBSCR":
            if any(not given.isdisjoint(_names(before)) for before in instructions[max(position - 6, 0) : position]):
                return True
        elif instruction.opname == "STORE_ATTR" or (
            instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and instruction.argval in filling
        ):
            if base_of(instructions, position - 1)[0] in given:
                return True
    return any(changes_parameter(inner, filling) for inner in _inside(code))


@functools.lru_cache(maxsize=4096)
def names_tested_for_none(code: CodeType) -> frozenset[str]:
    """The local variables that a function, or one of whose items or attributes it, compares with None by ``is``.

    A proxy cannot answer ``is``, so whoever puts one into such a variable has to know the answer.
    """
    instructions, _ = _instructions(code)
    names = set()
    for position, instruction in enumerate(instructions):
        if "IF_NONE" in instruction.opname or "IF_NOT_NONE" in instruction.opname:
            names |= _operand(instructions, position - 1)
        elif instruction.opname == "IS_OP":
            names |= _operand(instructions, position - 1) | _operand(instructions, position - 2)
    return frozenset(names)


@dataclasses.dataclass(frozen=True)
class IdentityTests:
    """What a function compares by ``is`` with None, or with True or False."""

    arguments: frozenset[str]  # as they were passed; or items or attributes of them
    variables: bool  # whether it compares variables that it has assigned to
    attributes: frozenset[str]  # of `self`
    others: bool  # whether it compares anything else, such as the result of a call


@functools.lru_cache(maxsize=4096)
def identity_tests(code: CodeType, kind: type) -> IdentityTests:
    """The comparisons of a function with constants of a kind: ``NoneType`` or ``bool``."""
    instructions, _ = _instructions(code)
    variables: dict[str, int] = {}  # with the position of their last test
    attributes, others = set(), False
    for position, instruction in enumerate(instructions):
        if kind is NoneType and ("IF_NONE" in instruction.opname or "IF_NOT_NONE" in instruction.opname):
            base, attribute = base_of(instructions, position - 1)
        elif _is_test(instructions, position, kind):
            base, attribute = base_of(instructions, position - 2)
        else:
            continue
        if base == "self" and attribute:
            attributes.add(attribute)
        elif base:
            variables[base] = position
        others = others or base == "" or instruction.is_jump_target or instructions[position - 1].is_jump_target
    given = {name for name, last in variables.items() if name in code.co_varnames and _is_as_given(code, name, last)}
    return IdentityTests(frozenset(given), given != set(variables), frozenset(attributes), others)


def asks_of_values(code: CodeType, arguments: bool = True) -> bool:
    """Whether a function asks if something is None: an argument (if `arguments`), or no attribute of `self`."""
    kind: Any = NoneType
    tests = identity_tests(code, kind)
    here = (arguments and bool(tests.arguments)) or tests.variables or tests.others
    return here or any(map(asks_of_values, _inside(code)))


def _is_as_given(code: CodeType, name: str, end: int) -> bool:
    """Whether an argument still has the value that was passed when a function reaches the instruction at `end`."""
    instructions, positions = _instructions(code)
    stores = [p for p, i in enumerate(instructions) if i.opname.startswith(("STORE_", "DELETE_")) and name in _names(i)]
    first = min(stores, default=len(instructions))
    back = [i for i in instructions[first:] if "JUMP_BACKWARD" in i.opname]
    return end < first and not any(positions.get(i.argval, 0) <= end for i in back)


def _is_test(instructions: list[dis.Instruction], position: int, kind: type) -> bool:
    """Whether an instruction compares by ``is`` with a constant of that kind."""
    before = instructions[position - 1]
    return instructions[position].opname == "IS_OP" and before.opname == "LOAD_CONST" and type(before.argval) is kind


@functools.lru_cache(maxsize=4096)
def compares_with_bool(code: CodeType) -> bool:
    """Whether a function compares anything with True or False by ``is``, which ``match`` does too."""
    instructions, _ = _instructions(code)
    here = any(_is_test(instructions, position, bool) for position in range(1, len(instructions)))
    return here or any(map(compares_with_bool, _inside(code)))


def _names(instruction: dis.Instruction) -> tuple[str, ...]:
    argument = instruction.argval
    return argument if isinstance(argument, tuple) else (argument,) if isinstance(argument, str) else ()


def base_of(instructions: list[dis.Instruction], position: int) -> tuple[str | None, str]:
    """The variable and the first attribute of ``name.attribute[constant]``, which ends at `position`.

    The variable is None for a global, which is no value of a forward, and empty for any other expression.
    """
    attribute = ""
    while position >= 0:
        instruction = instructions[position]
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            attribute = instruction.argval
        elif instruction.opname.startswith(("LOAD_FAST", "LOAD_DEREF")):
            return _names(instruction)[-1], attribute
        elif instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            return None, attribute
        elif instruction.opname not in ("BINARY_SUBSCR", "LOAD_CONST", "LOAD_SMALL_INT", "COPY"):
            break
        position -= 1
    return "", ""


def _operand(instructions: list[dis.Instruction], position: int) -> set[str]:
    """The local variable of ``name``, ``name.attribute`` or ``name[constant]``, which ends at `position`."""
    path = 0
    while position >= 0:
        instruction = instructions[position]
        if instruction.opname in (
            "LOAD_ATTR",
            "LOAD_CONST",
            "LOAD_SMALL_INT",
            "BINARY_SUBSCR",
            "BINARY_OP",
            "LOAD_METHOD",
        ):
            path += 1
            position -= 1
            continue
        if instruction.opname.startswith(("LOAD_FAST", "LOAD_DEREF", "STORE_FAST_LOAD_FAST")):
            names = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
            return {name for name in names if name != "self" or path == 0}
        break
    return set()


def assigned_names(frame: FrameType) -> set[str]:
    """The local variables to which the frame assigns the result of its current call, whole or unpacked."""
    instructions, here = _here(frame)
    names: set[str] = set()
    for instruction in instructions[here + 1 :]:
        if instruction.opname.startswith("STORE_FAST") or instruction.opname == "STORE_DEREF":
            argument = instruction.argval
            names.update(argument if isinstance(argument, tuple) else (argument,))
        elif instruction.opname not in ("UNPACK_SEQUENCE", "COPY", "SWAP"):
            break
    return names
