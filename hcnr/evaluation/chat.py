"""Talk to models side by side: the same questions to each, each with a history of its own."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hcnr.config import RestoreConfig
from hcnr.data.items import Message
from hcnr.detectors import Detector, open_detector
from hcnr.errors import DataError
from hcnr.evaluation.evaluated_models import name_evaluated, opened
from hcnr.evaluation.generation import generate
from hcnr.evaluation.prompts import encode_prompts
from hcnr.models.limits import Limits

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_NEW_TOKENS = 128
DETECTOR = "unknownbench_keywords"


@dataclasses.dataclass(frozen=True)
class Reply:
    """What one model said to one question.

    Attributes:
        model: its name.
        text: the response, cut at the most tokens.
        refused: whether the detector takes it for a refusal.
    """

    model: str
    text: str
    refused: bool


@dataclasses.dataclass
class Speaker:
    """One model with what was said so far.

    Attributes:
        name: of the model.
        turns: of the chat; a model without a chat template is asked each question anew.
    """

    name: str
    turns: list[Message]
    _model: "PreTrainedModel" = dataclasses.field(repr=False)
    _tokenizer: "PreTrainedTokenizerBase" = dataclasses.field(repr=False)

    def answer(self, question: str, max_new_tokens: int) -> str:
        """Answer greedily; the history grows only where the answer came.

        Raises:
            DataError: the chat no longer fits into the model's context.
        """
        asked = [*self.turns, Message("user", question)]
        prompt = asked if self._tokenizer.chat_template else question
        (ids,) = encode_prompts([prompt], self._tokenizer)
        context = Limits.of(self._model).context
        if context is not None and len(ids) < context:
            # At most so many: a reply is cut where the model's positions end.
            max_new_tokens = min(max_new_tokens, context - len(ids))
        (reply,) = generate(
            self._model,
            self._tokenizer,
            [ids],
            max_new_tokens=max_new_tokens,
            names=["the chat so far"],
        )
        if self._tokenizer.chat_template:
            self.turns = [*asked, Message("assistant", reply)]
        return reply


class Chat:
    """Several models that are asked the same; made by `open_chat`."""

    def __init__(self, speakers: Sequence[Speaker], system: str | None, detector: Detector) -> None:
        """Begin with the system prompt, if there is one."""
        self._speakers, self._detector = list(speakers), detector
        self._opening = [Message("system", system)] if system else []
        self.restart()

    @property
    def names(self) -> list[str]:
        """The models, in the order of their replies."""
        return [speaker.name for speaker in self._speakers]

    def restart(self) -> None:
        """Forget everything but the system prompt."""
        for speaker in self._speakers:
            speaker.turns = list(self._opening)

    def ask(self, question: str, *, max_new_tokens: int = MAX_NEW_TOKENS) -> list[Reply]:
        """Every model's reply.

        Args:
            question: the user's turn.
            max_new_tokens: most tokens of a reply.

        Raises:
            DataError: the chat no longer fits into a model's context, or its template refuses it;
                no model's history has grown then.
        """
        before = [speaker.turns for speaker in self._speakers]
        try:
            replies = [speaker.answer(question, max_new_tokens) for speaker in self._speakers]
        except BaseException:
            for speaker, turns in zip(self._speakers, before, strict=True):
                speaker.turns = turns
            raise
        refused = self._detector.many(replies, [question] * len(replies))
        return [
            Reply(name, text, bool(is_refusal))
            for name, text, is_refusal in zip(self.names, replies, refused, strict=True)
        ]


@contextlib.contextmanager
def open_chat(
    models: Sequence[Any],
    *,
    system: str | None = None,
    tokenizer: Any = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Iterator[Chat]:
    """Load models to talk to; all of them are in memory together.

    Args:
        models: checkpoint directories, or causal language models in memory.
        system: system prompt.
        tokenizer: one for all models, or its directory; by default each model's own.
        device: where models from directories run.
        dtype: theirs; auto keeps the checkpoint's.

    Raises:
        HcnrError: a model cannot be opened, one is given twice, or there is a system prompt and
            no chat template.
    """
    config = RestoreConfig.model_validate({"device": device, "dtype": dtype})
    with contextlib.ExitStack() as stack:
        speakers = []
        for evaluated in name_evaluated(models):
            network, reader = stack.enter_context(opened(evaluated, tokenizer, config))
            if system and not reader.chat_template:
                raise DataError(
                    f"{evaluated.label} has no chat template, and a system prompt needs one; leave "
                    "the system prompt out, or give a tokenizer that has a template"
                )
            speakers.append(Speaker(evaluated.label, [], network, reader))
        yield Chat(speakers, system, open_detector(DETECTOR))
