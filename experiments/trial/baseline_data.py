"""What the baselines train on beside the samples of a repair."""

import dataclasses

from hcnr.data.samples import Sample
from hcnr.demo.real.training import Schedule

POOL_SEED = "hcnr-trial-rivals"
"""Begins the seed of a pool's order, to which the seed of the world is added."""


@dataclasses.dataclass(frozen=True)
class PoolQuestion:
    """A question that a baseline may train on.

    Attributes:
        prompt: as models are asked it.
        response: the right answer, or a refusal where there is none.
        refusal: what refusing it would be; the response itself where it is unanswerable.
        answerable: whether there is an answer.
    """

    prompt: str
    response: str
    refusal: str
    answerable: bool

    @property
    def sample(self) -> Sample:
        """What supervised training learns."""
        return Sample(self.prompt, self.response)


@dataclasses.dataclass(frozen=True)
class BaselineData:
    """Everything that a baseline of one world may train on.

    Attributes:
        pool: in a random order, so that its first ones are a sample of it.
        task: what the fine-tuning taught.
        schedule: of the fine-tuning.
    """

    pool: tuple[PoolQuestion, ...]
    task: tuple[Sample, ...]
    schedule: Schedule
