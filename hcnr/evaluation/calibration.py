"""Does a model's own probability of refusing say when it would be wrong?"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from hcnr.errors import DataError
from hcnr.evaluation.generation import padding_token, run_batches
from hcnr.models.model import eval_mode
from hcnr.stats import auroc

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BINS = 15


def refusal_probability(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Sequence[int]],
    sentence: str,
    *,
    batch_size: int,
) -> np.ndarray:
    """Length-normalised probability of one refusal sentence after each prompt.

        P(r | q) = exp( (1/|r|) sum_i log p(r_i | q, r_1 .. r_{i-1}) )

    the geometric mean of its token probabilities. The sentence's tokens are those of the sentence
    alone, without special tokens, as the responses of the repair's samples.

    Args:
        model: a causal language model; it is left as it was.
        tokenizer: its tokenizer.
        prompts: token ids.
        sentence: the refusal.
        batch_size: prompts at once, at first.

    Returns:
        float64 `[len(prompts)]`, each in (0, 1].
    """
    refusal = cast(list[int], tokenizer(sentence, add_special_tokens=False)["input_ids"])
    if not refusal:
        raise DataError(f"the tokenizer finds no tokens in the refusal {sentence!r}, expected some")
    pad = padding_token(tokenizer)
    wanted = torch.tensor(refusal, device=model.device)

    def work(chunk: Sequence[int]) -> list[float]:
        rows = [[*prompts[i], *refusal] for i in chunk]
        # Padded on the right, where causal attention never looks: positions need no care.
        longest = max(map(len, rows))
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        logits = cast(Any, model)(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
        ).logits
        before = torch.tensor([len(prompts[i]) - 1 for i in chunk], device=logits.device)
        steps = before[:, None] + torch.arange(len(refusal), device=logits.device)
        chosen = logits[torch.arange(len(rows), device=logits.device)[:, None], steps].float()
        tokens = chosen.log_softmax(dim=-1)[:, torch.arange(len(refusal)), wanted]
        return tokens.double().mean(dim=1).tolist()

    probabilities = np.zeros(len(prompts))
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    with eval_mode(model), torch.no_grad():
        for chunk, logarithms in run_batches(order, batch_size, work):
            probabilities[list(chunk)] = np.exp(logarithms)
    return probabilities


def calibration(refusal: np.ndarray, correct: np.ndarray) -> dict[str, Any]:
    """Columns of one set, with confidence = 1 - P(refusal sentence).

    Correctness is that of answering: an unanswerable question cannot be answered correctly, an
    answerable one is where the response contains an accepted answer.

    Args:
        refusal: P(refusal sentence) `[n]`.
        correct: bool `[n]`.

    Returns:
        `n`, the mean of `refusal` and the expected calibration error, both in percent, and the
        AUROC of the confidence against correctness, from 0 to 1, None where all questions are in
        one class.
    """
    confidence, correct = 1.0 - np.asarray(refusal, dtype=np.float64), np.asarray(correct, bool)
    both = correct.any() and not correct.all()
    return {
        "n": len(confidence),
        "refusal_probability": 100.0 * float(np.mean(refusal)),
        "ece": 100.0 * expected_calibration_error(confidence, correct),
        "auroc": float(auroc(confidence, correct)) if both else None,
    }


def expected_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> float:
    """Mean distance of confidence and accuracy over equal-width bins, weighted by their sizes.

        ECE = sum_b (n_b / n) | mean correct in b - mean confidence in b |

    Bin b of B holds confidences in ((b-1)/B, b/B]; 0 belongs to the first.

    Args:
        confidence: `[n]`, from 0 to 1.
        correct: bool `[n]`.
        bins: number B of bins.
    """
    confidence = np.asarray(confidence, dtype=np.float64)
    edges = np.arange(1, bins) / bins
    indices = np.searchsorted(edges, confidence, side="left")
    gap = np.asarray(correct, dtype=np.float64) - confidence
    return float(np.abs(np.bincount(indices, weights=gap, minlength=bins)).sum() / len(confidence))
