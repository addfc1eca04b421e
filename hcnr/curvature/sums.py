"""Sums over rows that matrices share where they read one tensor, and when they may not."""

from collections import Counter
from collections.abc import Callable, Container
from typing import NamedTuple

from torch import Tensor

from hcnr import ranks
from hcnr.curvature.passes import Attempt, Passes
from hcnr.curvature.taps import InputsDiffer
from hcnr_kernels import BlockDiagonal

Key = tuple[str, str]
"""`inputs` or `gradients`, and a matrix."""


class Sums(NamedTuple):
    """What one process, or all of them, have summed up in a pass.

    Attributes:
        grams: sums of one process.
        sources: matrix -> the sum over what it read; of matrices that read one tensor the same.
        tokens: rows in each sum.
        read: rows that each matrix has read.
    """

    grams: dict[Key, Tensor | BlockDiagonal]
    sources: dict[str, Key]
    tokens: dict[Key, int]
    read: dict[str, int]

    @classmethod
    def empty(cls) -> "Sums":
        """Nothing summed yet."""
        return cls({}, {}, Counter(), Counter())

    def note(self, name: str, source: Key, tokens: int) -> None:
        """Note that a matrix has read some rows, which are in the sum `source`."""
        self.sources[name] = source
        self.read[name] += tokens

    def whole(self, key: Key) -> Tensor:
        """A sum that is no diagonal of blocks."""
        gram = self.grams[key]
        assert isinstance(gram, Tensor)
        return gram


def measured(
    passes: Passes, measure: Callable[[Attempt, Container[str]], Sums], held: int = 0
) -> Sums:
    """Measure until the sum that each matrix takes for its own holds what it read, and no more.

    Matrices that are used several times in a forward pass share no input, nor do those that share
    one in some batches, or in some processes, and not in others. They show on the way, and the pass
    starts over.

    Returns:
        This process's sums; the rest is of all processes.
    """
    apart: set[str] = set()

    def run(attempt: Attempt) -> Sums:
        while True:
            try:
                return measure(attempt, apart)
            except InputsDiffer as error:
                apart.update(error.names)

    while True:
        own = passes.run(run, held=held)
        sources = ranks.merged("sources", own.sources)
        result = own._replace(
            sources=sources,
            tokens=ranks.counted("tokens", own.tokens),
            read=ranks.counted("rows read", own.read),
        )
        wrong = {name for name, one in own.sources.items() if one != sources[name]}
        # Where the matrix that leads gets no gradient, say.
        wrong |= {n for n, one in sources.items() if result.tokens.get(one) != result.read[n]}
        reports = ranks.gathered(
            "matrices that share nothing", (frozenset(apart), frozenset(wrong))
        )
        if all(one == (apart, frozenset()) for one in reports):
            return result
        apart.update(*(names for one in reports for names in one))
        del own, result
