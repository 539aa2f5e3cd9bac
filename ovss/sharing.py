"""What several runs of one pass over the photos have in common, computed once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from torch import Tensor

Value = TypeVar("Value")


class Shared:
    """Values by what they were computed from; see `sharing`.

    Attributes:
        done: of each kind of value how much was computed.
        asked: of each kind how much would have been computed without sharing.
    """

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self._values: dict[tuple[Any, ...], tuple[Any, Any]] = {}
        self._lock = threading.Lock()

    def once(
        self,
        compute: Callable[[], Value],
        kind: str,
        *source: Any,
        cost: int = 1,
        enough: Callable[[Value], bool] = lambda value: True,
    ) -> Value:
        """A value, computed unless it is there.

        Args:
            compute: gives the value; of a generator the items are kept, as a list.
            kind: what the value is, for the counts.
            source: everything that the value depends on. Tensors and modules are told apart by
                their identity, everything else by its value.
            cost: of `compute`, for the counts.
            enough: whether a value that is there will do; if not, a new one takes its place.
        """
        key = (kind, *(_identity(each) for each in source))
        with self._lock:
            self.asked[kind] += cost
            there = self._values.get(key)
        if there is not None and enough(there[0]):
            return there[0]
        value: Any = compute()
        if isinstance(value, Iterator):
            value = list(value)
        with self._lock:
            self.done[kind] += cost
            # With its source: the identity of what is gone may become another's.
            self._values[key] = (value, source)
        return value

    def clear(self) -> None:
        """Let go of all values, where memory has run out."""
        with self._lock:
            self._values.clear()


class _Unshared(Shared):
    """Computes whatever is asked for, and keeps nothing."""

    def once(self, compute: Callable[[], Value], kind: str, *source: Any, **_: Any) -> Value:
        """See `Shared.once`; the items of a generator are not held at once."""
        return compute()


_current: ContextVar[Shared] = ContextVar("ovss_sharing", default=_Unshared())  # noqa: B039


@contextmanager
def sharing() -> Iterator[Shared]:
    """Within this block a value that several ask `shared()` for is computed once.

    Memory holds all of them until its end, so it is to be short: a batch of photos.

    Example:
        >>> with sharing() as values:
        ...     for _ in range(3):
        ...         found = shared().once(lambda: 6 * 7, "product", 6, 7)
        >>> found, values.done["product"], values.asked["product"]
        (42, 1, 3)
    """
    values = Shared()
    token = _current.set(values)
    try:
        yield values
    finally:
        _current.reset(token)


def shared() -> Shared:
    """The values of the `sharing` under way in this thread; outside of one nothing is kept."""
    return _current.get()


def _identity(source: Any) -> Any:
    """A tensor as its place in memory and its form: views of one place are one."""
    if isinstance(source, Tensor):
        place = source.data_ptr() if source.numel() else id(source)
        return place, source.device, source.dtype, source.shape, source.stride()
    return source
