"""Honesty samples for probes: their classes, what must stay together, and neutral prompts."""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hcnr.config import RestoreConfig
from hcnr.data.samples import Sample, SampleSet, load_samples
from hcnr.data.tokens import TokenizedSample, TokenizedSet, tokenize
from hcnr.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from hcnr.data.repair_data import Data


@dataclass(frozen=True)
class Labelled:
    """Samples with `positive [n]` (unanswerable) and `groups [n]`, and facts for the report."""

    samples: SampleSet
    positive: "NDArray[np.bool_]"
    groups: "NDArray[np.integer]"
    facts: dict[str, Any]
    notes: list[str]


def label(honesty: "Data", config: RestoreConfig, detector: str) -> Labelled:
    """Read the samples that a restoration would use, their classes and their groups."""
    samples = load_samples(honesty, limit=config.samples, shuffle_seed=config.shuffle_seed)
    labels = [sample.answerable for sample in samples.samples]
    if all(value is None for value in labels):
        from hcnr.detectors import open_detector

        labelled_by = f"the detector {detector} on the responses"
        positive = open_detector(detector).many(
            [sample.response for sample in samples.samples],
            [sample.prompt for sample in samples.samples],
        )
    else:
        labelled_by = "the field answerable"
        for location, value in zip(samples.locations, labels, strict=True):
            if value is None:
                raise DataError(
                    f"{location} has {value!r} as 'answerable', expected true or false in every "
                    "record, or the field in none; correct it"
                )
        positive = np.array([not value for value in labels])
    numbers: dict[tuple[str, str], int] = {}
    groups = [numbers.setdefault(_group(sample), len(numbers)) for sample in samples.samples]
    notes = []
    if len(samples) < samples.available:
        notes.append(
            f"{len(samples)} of the {samples.available} samples of {samples.source} were used, "
            "as a restoration would; --samples takes more."
        )
    facts = {
        "source": samples.source,
        "available": samples.available,
        "sha256": samples.sha256,
        "format": samples.description,
        "samples": len(samples),
        "unanswerable": int(positive.sum()),
        "answerable": int((~positive).sum()),
        "groups": len(numbers),
        "labelled_by": labelled_by,
    }
    return Labelled(samples, positive, np.array(groups), facts, notes)


def _group(sample: Sample) -> tuple[str, str]:
    """Key of the samples that must stay together."""
    if sample.group is not None:
        return "group", sample.group
    question = sample.prompt
    # Any script's letters and digits, so that questions outside ASCII do not all become one.
    return "question", " ".join(re.sub(r"[\W_]+", " ", question.lower()).split()) or question


def neutral_prompts(
    samples: SampleSet, tokenizer: "PreTrainedTokenizerBase", config: RestoreConfig
) -> TokenizedSet:
    """Tokens up to where the response begins.

    Every sample gets the same response first: the real one could leak its class through where a
    long prompt is cut, or through what a chat template makes of it.
    """
    spoken = [sample.response for sample in samples.samples if sample.response.strip()]
    same = min(spoken, key=len, default="yes")
    neutral = [
        Sample(
            sample.prompt,
            same,
            sample.messages
            and (*sample.messages[:-1], replace(sample.messages[-1], content=same, more={})),
            sample.tools,
        )
        for sample in samples.samples
    ]
    tokens = tokenize(
        replace(samples, samples=tuple(neutral)),
        tokenizer,
        max_length=config.max_length,
        chat_template=config.chat_template,
    )
    cut = [
        TokenizedSample(one.input_ids[: one.response_start], one.response_start)
        for one in tokens.samples
    ]
    return replace(tokens, samples=tuple(cut))


def check_classes(labelled: Labelled, folds: int) -> None:
    """Enough of both classes, a duplicated question counted once."""
    for name, members in (("unanswerable", labelled.positive), ("answerable", ~labelled.positive)):
        distinct = len(np.unique(labelled.groups[members]))
        if distinct < 2 * folds:
            raise DataError(
                f"{labelled.samples.source} has {distinct} distinct {name} questions among the "
                f"{len(members)} samples used, by {labelled.facts['labelled_by']}, expected at "
                f"least {2 * folds} (2 per fold); give more samples, mix both kinds with "
                "--shuffle-seed, or lower --folds"
            )
