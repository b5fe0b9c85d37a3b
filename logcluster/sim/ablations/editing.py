"""Switching a safeguard off without a switch in the product: one fragment of a function is replaced for a while.

An `Edit` names a function of the product, a fragment of its source and what shall stand there instead. Applying it
compiles the changed source and gives the function object the new code; leaving the block gives it the old code back.
Function objects keep their identity, so it does not matter who imported, bound or stored them before.

Invariants: an edit applies only to the source that is running: the fragment stands in the function exactly once, and
the unchanged source compiles to the code the function has. Anything else raises `AblationDoesNotFit`, because an
ablation that silently removes nothing would say that a safeguard is not needed. No function is edited twice at a time.

The mutation testing literature calls this a mutant; here each one is chosen by hand and has a name.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType, MappingProxyType
from typing import Any, Final

_edited: Final[dict[FunctionType, CodeType]] = {}
"""Functions that are changed at the moment, with the code to give back."""


class AblationDoesNotFit(Exception):
    """The product is not as the ablation expects it; whoever changed the safeguard must adapt the ablation."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of one function.

    Args:
        target: a function, or a method or property as its class holds it.
        old: a fragment of its source, as it stands there once the function is not indented.
        new: what replaces it.
    """

    target: Any
    old: str
    new: str


class Patch:
    """Several edits together; calling it gives the block in which they hold.

    Args:
        names: further global names that the new fragments use; they must not exist in the modules edited.
    """

    __slots__ = ("edits", "names")

    def __init__(self, *edits: Edit, names: Mapping[str, object] = MappingProxyType({})) -> None:
        self.edits = edits
        self.names = names

    @property
    def functions(self) -> tuple[FunctionType, ...]:
        """What is edited, each once, in the order of the edits."""
        return tuple(dict.fromkeys(_function(edit.target) for edit in self.edits))

    def __call__(self) -> AbstractContextManager[None]:
        """The block in which the edits hold; entering it raises `AblationDoesNotFit` and changes nothing then."""
        return self._applied()

    @contextmanager
    def _applied(self) -> Iterator[None]:
        changed = {function: self._compile(function) for function in self.functions}
        for function in changed:
            clashes = [name for name in self.names if name in function.__globals__]
            if clashes:
                raise AblationDoesNotFit(f"{_label(function)}: its module has names {clashes} of its own")
        try:
            for function, code in changed.items():
                _edited[function] = function.__code__
                function.__globals__.update(self.names)
                function.__code__ = code
            yield
        finally:
            for function in changed:
                if function in _edited:
                    function.__code__ = _edited.pop(function)
                    for name in self.names:
                        function.__globals__.pop(name, None)

    def _compile(self, function: FunctionType) -> CodeType:
        if function in _edited:
            raise AblationDoesNotFit(f"{_label(function)} is edited already")
        source = _Source(function)
        text = source.text
        if not _is_same(source.compile(text), function.__code__):
            raise AblationDoesNotFit(f"{_label(function)}: its file has changed since it was loaded")
        for edit in self.edits:
            if _function(edit.target) is not function:
                continue
            count = text.count(edit.old)
            if count != 1:
                raise AblationDoesNotFit(f"{_label(function)} holds {count} times instead of once: {edit.old!r}")
            text = text.replace(edit.old, edit.new)
        code = source.compile(text)
        if code.co_freevars != function.__code__.co_freevars:
            raise AblationDoesNotFit(f"{_label(function)}: what it encloses cannot change")
        return code


def _function(target: Any) -> FunctionType:
    found = target.fget if isinstance(target, property) else getattr(target, "__func__", target)
    if not isinstance(found, FunctionType):
        raise AblationDoesNotFit(f"{target!r} is no function")
    return found


def _label(function: FunctionType) -> str:
    return f"{function.__module__}.{function.__qualname__}"


class _Source:
    """The file of a function, and the lines in it that are the function's."""

    def __init__(self, function: FunctionType) -> None:
        self._code = function.__code__
        self._label = _label(function)
        try:
            lines, start = inspect.getsourcelines(function)
            self._file, _ = inspect.findsource(function)
        except OSError as error:
            raise AblationDoesNotFit(f"{self._label}: its source cannot be read: {error}") from error
        self._start = start - 1
        self._end = self._start + len(lines)
        self._indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
        self.text = textwrap.dedent("".join(lines))

    def compile(self, text: str) -> CodeType:
        """Compile the whole file with `text` in the function's place, as its imports matter; nothing of it is run."""
        lines = [*self._file[: self._start], textwrap.indent(text, self._indent), *self._file[self._end :]]
        original = self._code
        try:
            module = compile("".join(lines), original.co_filename, "exec", dont_inherit=True)
        except SyntaxError as error:
            raise AblationDoesNotFit(f"{self._label}: the changed source does not compile: {error}") from error
        for code in _nested(module):
            if code.co_qualname == original.co_qualname and code.co_firstlineno == original.co_firstlineno:
                return code
        raise AblationDoesNotFit(f"{self._label}: its file has changed since it was loaded")


def _nested(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _nested(constant)


def _is_same(left: CodeType, right: CodeType) -> bool:
    """Whether two pieces of code do the same; where they stand does not matter."""
    return (
        left.co_code == right.co_code
        and left.co_names == right.co_names
        and _plain_constants(left) == _plain_constants(right)
        and len(list(_nested(left))) == len(list(_nested(right)))
        and all(one.co_code == other.co_code for one, other in zip(_nested(left), _nested(right), strict=True))
    )


def _plain_constants(code: CodeType) -> list[str]:
    return [repr(constant) for constant in code.co_consts if not isinstance(constant, CodeType | frozenset)]
