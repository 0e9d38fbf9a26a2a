"""What the ends that receive from the kernel have in common."""

from abc import ABC, abstractmethod
from typing import TypeVar

_Self = TypeVar("_Self", bound="Receiver")


class Receiver(ABC):
    """Hands out what came with receive(); a context manager that closes it."""

    _is_drained = True

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_drained(self) -> bool:
        """Whether all that had come was handed out by the last receive()."""
        return self._is_drained

    @abstractmethod
    def close(self) -> None:
        """Receive no more."""
