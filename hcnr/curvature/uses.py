"""Matrices that a forward pass uses several times: their rows wait for each other."""

from collections.abc import Iterator

from torch import Tensor

from hcnr.curvature.layouts import SharedInput, Use
from hcnr.curvature.taps import more_gradients


class Uses:
    """Rows of the uses of each matrix, until backward has met the last one of a forward pass.

    What is squared per sample needs them together: the square of a sum is not the sum of squares.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._kept: dict[tuple[str, int], list[Use]] = {}
        self._done: dict[str, int] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._done.clear()

    def once(self, name: str, shared: SharedInput) -> None:
        """Note the one use that a matrix has in a forward pass.

        Raises:
            ModelError: it had one before.
        """
        self._check(name, shared)
        self._done[name] = shared.forward

    def add(self, name: str, shared: SharedInput, x: Tensor, g: Tensor) -> list[Use]:
        """Take what backward has met of one use.

        Args:
            name: the matrix.
            shared: as a `GradientConsumer` gets it.
            x: rows of its input.
            g: rows of its output's gradient.

        Returns:
            All uses of the forward pass where this was the last one; else nothing.

        Raises:
            ModelError: there are more than the forward pass had.
        """
        self._check(name, shared)
        place = name, shared.forward
        kept = self._kept.setdefault(place, [])
        kept.append(Use(shared.layout, x, g))
        if len(kept) < shared.uses[name]:
            return []
        self._done[name] = shared.forward
        return self._kept.pop(place)

    def rest(self) -> Iterator[tuple[str, list[Use]]]:
        """What waits for uses that got no gradient, once backward is over; nothing waits then."""
        for name, forward in tuple(self._kept):
            self._done[name] = forward
            yield name, self._kept.pop((name, forward))

    def _check(self, name: str, shared: SharedInput) -> None:
        if self._done.get(name) == shared.forward:
            raise more_gradients(name)
