"""What the calling line of Python is about to do with a value: some of it can only be read from the bytecode."""

from __future__ import annotations

import dis
import functools
import linecache
from types import CodeType, FrameType


@functools.lru_cache(maxsize=4096)
def _instructions(code: CodeType) -> tuple[list[dis.Instruction], dict[int, int]]:
    instructions = [i for i in dis.get_instructions(code) if i.opname not in ("CACHE", "EXTENDED_ARG", "NOT_TAKEN")]
    return instructions, {instruction.offset: position for position, instruction in enumerate(instructions)}


def _here(frame: FrameType) -> tuple[list[dis.Instruction], int]:
    instructions, positions = _instructions(frame.f_code)
    return instructions, positions.get(frame.f_lasti, len(instructions))


def unpacked_items(frame: FrameType) -> int | None:
    """How many items ``a, b, c = value`` takes, if this is what the frame is doing."""
    instructions, here = _here(frame)
    if here < len(instructions) and instructions[here].opname == "UNPACK_SEQUENCE":
        return instructions[here].arg
    return None


def assertion(frame: FrameType) -> str | None:
    """The source of the ``assert`` that the frame is evaluating, if it is: one that goes on only for a true value."""
    instructions, here = _here(frame)
    while here < len(instructions) and instructions[here].opname in ("TO_BOOL", "COPY"):
        here += 1
    if here + 1 >= len(instructions):
        return None
    jump = instructions[here]
    if "JUMP" not in jump.opname:
        return None
    if "IF_TRUE" in jump.opname:
        otherwise = instructions[here + 1]
    elif "IF_FALSE" in jump.opname:
        position = _instructions(frame.f_code)[1].get(jump.argval)
        if position is None:
            return None
        otherwise = instructions[position]
    else:
        return None
    raises = otherwise.opname == "LOAD_ASSERTION_ERROR" or (
        otherwise.opname == "LOAD_COMMON_CONSTANT" and otherwise.argval is AssertionError
    )
    return source_line(frame.f_code.co_filename, frame.f_lineno) if raises else None


@functools.lru_cache(maxsize=4096)
def attributes_stored(code: CodeType) -> frozenset[str]:
    """The names of all attributes that a function assigns to, of whatever object."""
    return frozenset(i.argval for i in _instructions(code)[0] if i.opname == "STORE_ATTR")


def passes_text_on(frame: FrameType) -> bool:
    """Whether the text that the frame is making goes straight into a call, such as that of an error."""
    instructions, here = _here(frame)
    rest = instructions[here + 1 :]
    parts = next((i for i, instruction in enumerate(rest) if instruction.opname == "BUILD_STRING"), -1)
    following = next((i for i in rest[parts + 1 :] if i.opname not in ("FORMAT_VALUE", "FORMAT_SIMPLE", "NOP")), None)
    return following is not None and not following.opname.startswith(_COMPUTING)


_COMPUTING = (
    "COMPARE_OP",
    "CONTAINS_OP",
    "IS_OP",
    "STORE_",
    "RETURN_",
    "BINARY_",
    "LOAD_CONST",
    "BUILD_MAP",
    "LOAD_FAST",
)


def source_line(filename: str, line: int) -> str:
    return linecache.getline(filename, line).strip()


@functools.lru_cache(maxsize=4096)
def names_tested_for_none(code: CodeType) -> frozenset[str]:
    """The local variables of which a function asks ``is None``, or asks it of one of their items or attributes.

    ``is`` cannot be answered by a stand-in, so whoever hands one to such a variable has to know the answer.
    """
    instructions, _ = _instructions(code)
    names = set()
    for position, instruction in enumerate(instructions):
        if "IF_NONE" in instruction.opname or "IF_NOT_NONE" in instruction.opname:
            names |= _operand(instructions, position - 1)
        elif instruction.opname == "IS_OP":
            names |= _operand(instructions, position - 1) | _operand(instructions, position - 2)
    return frozenset(names)


def _operand(instructions: list[dis.Instruction], position: int) -> set[str]:
    """The local variable behind ``name``, ``name.attribute`` or ``name[constant]`` that ends at `position`."""
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
    """The local variables that take the result of the call which the frame is making, whole or unpacked."""
    instructions, here = _here(frame)
    names: set[str] = set()
    for instruction in instructions[here + 1 :]:
        if instruction.opname.startswith("STORE_FAST") or instruction.opname == "STORE_DEREF":
            argument = instruction.argval
            names.update(argument if isinstance(argument, tuple) else (argument,))
        elif instruction.opname not in ("UNPACK_SEQUENCE", "COPY", "SWAP"):
            break
    return names
