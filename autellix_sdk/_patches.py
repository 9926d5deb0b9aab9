"""Replacing attributes of other people's classes and modules, now or once they are imported, and putting them back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import update_wrapper
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_ABSENT = object()


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

    def when_imported(self, module: str, install: Callable[[ModuleType], None]) -> None:
        """Call `install` with the module: now if it is imported, else right after it will have been."""
        if module in sys.modules:
            install(sys.modules[module])
            return
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        self._waiting[module] = install

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find modules that are waited for, as the import system asks; leave all others to the next finder."""
        install = self._waiting.get(name)
        spec = None if install is None else PathFinder.find_spec(name, path, target)
        if install is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_install(module: ModuleType) -> None:
            execute(module)
            if self._waiting.pop(name, None) is not None:
                install(module)

        spec.loader.exec_module = execute_and_install  # type: ignore[method-assign]
        return spec

    def undo(self) -> None:
        """Put everything back, except where somebody else has wrapped the same attribute on top since."""
        self._waiting.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        while self._undo:
            owner, name, before, wrapper = self._undo.pop()
            if vars(owner).get(name) is not wrapper:
                continue
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
