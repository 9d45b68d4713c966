"""What an object keeps besides its ``__dict__``."""

from __future__ import annotations

import weakref

# By type, as looking for them takes longer than all that is done with them.
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
