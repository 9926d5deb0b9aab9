"""Replacing attributes of other people's classes and modules, now or once they are imported, and putting them back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import update_wrapper
from importlib.machinery import ModuleSpec
from types import CellType, ModuleType
from typing import Any

from autellix_sdk._faults import faults

_ABSENT = object()
_CELL = "cell_contents"


class Patches:
    """A set of replacements that can be undone. Not for concurrent use."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any, Any]] = []
        self._waiting: dict[str, Callable[[ModuleType], None]] = {}

    def wrap(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Replace ``owner.name`` by ``make(original)``."""
        original = getattr(owner, name)
        wrapper = update_wrapper(make(original), original)
        self._undo.append((owner, name, vars(owner).get(name, _ABSENT), wrapper))
        setattr(owner, name, wrapper)

    def fill(self, cell: CellType, make: Callable[[Any], Any]) -> None:
        """Replace what a function holds in a cell of its closure by ``make(content)``."""
        before = cell.cell_contents
        cell.cell_contents = made = make(before)
        self._undo.append((cell, _CELL, before, made))

    def when_imported(self, name: str, install: Callable[[ModuleType], None]) -> None:
        """Call `install` with the module of that name: now if it is imported, else right after it will have been.

        A module that is not what `install` expects is left alone: that is a fault of ours, and not raised.
        """
        module = sys.modules.get(name)
        if module is not None:
            _install(module, install)
            return
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        self._waiting[name] = install

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find modules that are waited for, as the finders after this one do; leave all others to them."""
        if name not in self._waiting:
            return None
        finders = [*sys.meta_path]
        if self not in finders:  # `undo` in another thread came first
            return None
        for finder in finders[finders.index(self) + 1 :]:
            if hasattr(finder, "find_spec") and (spec := finder.find_spec(name, path, target)) is not None:
                self._watch(spec)
                return spec
        return None

    def _watch(self, spec: ModuleSpec) -> None:
        """Have the module of `spec` installed once its loader has executed it."""

        def execute_and_install(module: ModuleType) -> None:
            execute(module)
            if module.__name__ == spec.name and (install := self._waiting.pop(spec.name, None)) is not None:
                _install(module, install)

        try:
            loader: Any = spec.loader
            execute = loader.exec_module
            loader.exec_module = execute_and_install
        except AttributeError as error:  # a namespace package has no loader, and some loaders cannot be watched
            faults.survive(f"the import of {spec.name} could not be followed", error)

    def undo(self) -> None:
        """Put everything back, except where somebody else has wrapped the same attribute on top since."""
        self._waiting.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        while self._undo:
            owner, name, before, wrapper = self._undo.pop()
            if (owner.cell_contents if name == _CELL else vars(owner).get(name)) is not wrapper:
                continue
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)


def _install(module: ModuleType, install: Callable[[ModuleType], None]) -> None:
    try:
        install(module)
    except Exception as error:  # noqa: BLE001 must not break the user's import
        faults.survive(f"{module.__name__} is not as expected, and is not followed", error)
