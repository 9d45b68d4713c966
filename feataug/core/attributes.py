"""The slots of an object, which are not in its ``__dict__``."""

from __future__ import annotations

import weakref

# Cached by type, because the search takes longer than what is done with the result.
_KNOWN: weakref.WeakKeyDictionary[type, tuple[str, ...]] = weakref.WeakKeyDictionary()


def slots_of(kind: type) -> tuple[str, ...]:
    """Names of the slots of a type and of its bases; an object need not have a value in each."""
    if kind not in _KNOWN:
        names: list[str] = []
        for base in kind.__mro__:
            slots = vars(base).get("__slots__", ())
            names += (slots,) if isinstance(slots, str) else tuple(slots)
        _KNOWN[kind] = tuple(name for name in names if name not in ("__dict__", "__weakref__"))
    return _KNOWN[kind]
