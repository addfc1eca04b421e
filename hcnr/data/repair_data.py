"""What a run measures on: both data sets, read, tokenised and described."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from hcnr.config import RestoreConfig
from hcnr.data.held_back import FEW, FEWEST, held_back_count, hold_back, measured_count
from hcnr.data.overlap import question_print
from hcnr.data.readable import unreadable
from hcnr.data.samples import Sample, SampleSet, load_samples
from hcnr.data.starter import STARTER
from hcnr.data.suspicions import REFUSING, about_refusals, about_tokenizers, refusals_in
from hcnr.data.tokens import TokenizedSet, tokenize
from hcnr.errors import DataError
from hcnr.models.pair import Pair
from hcnr.progress import DATA, Stages

Data = str | Path | Iterable[Mapping[str, Any] | Sample]


class MeasuringData(NamedTuple):
    """What a run measures on.

    Attributes:
        sets: tokenised samples of `honesty` and `task`, those that are measured.
        facts: of `honesty` and `task`, for the report; `questions` are the prints of the prompts,
            held-back ones too, by which an evaluation finds them again.
        held_back: tokenised samples that follow the measured ones, by data set; a set of which too
            few are left is missing.
        base_reads: whether base has a row of its embedding for every token.
    """

    sets: dict[str, TokenizedSet]
    facts: dict[str, dict[str, Any]]
    held_back: dict[str, TokenizedSet]
    base_reads: bool = True


def read_data(
    pair: Pair,
    honesty: Data | None,
    task: Data | None,
    config: RestoreConfig,
    tokenizer: Any,
    stages: Stages,
    *,
    holding: bool = False,
    base_runs: bool = True,
) -> MeasuringData:
    """Tokenise both data sets.

    Args:
        pair: base and tuned.
        honesty: samples.
        task: samples.
        config: how many, and how they become tokens.
        tokenizer: where the tuned model does not come with one.
        stages: told about it.
        holding: whether task samples must be held back, see `leave_room`; otherwise those that
            follow the measured ones are, where there are some.
        base_runs: whether base has to read the samples, so that tokens it has not are refused.

    Raises:
        DataError: a set is missing or cannot be used, both are the same, none can be held back, or
            a token is outside the embedding of a model that has to read it.
    """
    with stages.stage(DATA):
        opened = pair.tokenizer(tokenizer)
        max_length = min(config.max_length, pair.context or config.max_length)

        def tokens(samples: SampleSet) -> TokenizedSet:
            return tokenize(
                samples, opened, max_length=max_length, chat_template=config.chat_template
            )

        sets, facts, held_back, texts = {}, {}, {}, {}
        for name, source in (("honesty", honesty), ("task", task)):
            measured, rest = part_samples(name, source, config, holding and name == "task")
            if rest is not None:
                held_back[name] = tokens(rest)
            sets[name], texts[name] = tokens(measured), measured
            used = (*measured.samples, *(rest.samples if rest is not None else ()))
            facts[name] = {
                **described(measured, sets[name], max_length),
                # Not knowing, or not being willing: a repair may be for either.
                "refusals": refusals_in(measured, REFUSING),
                "questions": [question_print(sample.prompt) for sample in used],
                **asdict(sets[name].counts),
            }
        if config.priority == "kl" and sets["honesty"].sha256 == sets["task"].sha256:
            raise DataError(
                "the honesty and the task data are the same samples, so no neuron matters for one "
                "and not for the other; pass two different files to --honesty and --task"
            )
        pair.messages.extend(about_refusals(texts["honesty"], texts["task"]))
        pair.messages.extend(about_tokenizers(pair, opened, sets))
        every = {**sets, **{f"held-back {name}": rest for name, rest in held_back.items()}}
        _say_cut(pair, every.values(), config)
        return MeasuringData(sets, facts, held_back, _check_tokens(pair, every, config, base_runs))


def described(samples: SampleSet, tokens: TokenizedSet, max_length: int) -> dict[str, Any]:
    """Where samples come from, how they were read, and their tokens, for a report."""
    return {
        "source": samples.source,
        "available": samples.available,
        "format": samples.description,
        "sha256": samples.sha256,
        "tokens_sha256": tokens.sha256,
        "max_length": max_length,
    }


def part_samples(
    name: str, source: Data | None, config: RestoreConfig, holding: bool
) -> tuple[SampleSet, SampleSet | None]:
    """Samples of one data set to measure, and those to hold back; None where too few are left."""
    if source is None:
        raise DataError(
            f"no {name} data was given; pass --{name} FILE, or a number as --coefficient"
            if config.interpolates
            else f"no {name} data was given; pass --{name} FILE, or --statistics of an earlier "
            "measurement for a number as --task-weight and a --compensation of neurons"
        )
    if name == "task" and isinstance(source, str) and source == STARTER:
        raise DataError(
            "the starter set holds honesty samples, none of a task; pass samples of what TUNED was "
            "tuned for to --task"
        )
    limit = config.samples + held_back_count(config.samples)
    samples = load_samples(source, limit=limit, shuffle_seed=config.shuffle_seed)
    if holding or len(samples) >= config.samples + FEWEST:
        return hold_back(samples, config.samples)
    return samples.part(0, min(config.samples, len(samples))), None


def _say_cut(pair: Pair, sets: Iterable[TokenizedSet], config: RestoreConfig) -> None:
    """Say how many samples were cut because the models read no more of them."""
    if pair.context is None or pair.context >= config.max_length:
        return
    counts = [one.counts for one in sets]
    if cut := sum(max(c.prompts_truncated, c.responses_truncated) for c in counts):
        pair.messages.append(
            f"{cut} samples are longer than the {pair.context} tokens that the models read and "
            f"were cut to that, not to the max_length of {config.max_length}"
        )


def _check_tokens(
    pair: Pair, sets: Mapping[str, TokenizedSet], config: RestoreConfig, base_runs: bool
) -> bool:
    """Refuse tokens outside an embedding; returns whether base reads all of them."""
    if (problem := unreadable(sets, pair.tuned.limits)) is not None:
        raise DataError(
            f"tuned ({pair.tuned}) cannot read the data: {problem}; pass the tokenizer that "
            "belongs to it with --tokenizer"
        )
    if (problem := unreadable(sets, pair.base.limits)) is None:
        return True
    if base_runs:
        cures = [] if config.interpolates else ["--hessian-at tuned"]
        cures += ["--fisher-at tuned"] if config.fisher_at == "base" and cures else []
        cures += [f"a number as --{config.searched.replace(' ', '-')}"] if config.searched else []
        raise DataError(
            f"base ({pair.base}) cannot read the data: {problem}; measure at tuned alone "
            f"({', '.join(cures)}), or use samples without the tokens that fine-tuning added"
        )
    return False


def leave_room(config: RestoreConfig, task: Data | None, messages: list[str]) -> RestoreConfig:
    """Measure fewer samples where a search would have none left to hold back.

    The smaller number holds for both data sets and is in the configuration, so that a run with it
    and the weight that was found measures the same samples.

    Args:
        config: of a run that searches.
        task: the task samples, readable more than once.
        messages: gets a sentence where the number changes, or where few samples decide.
    """
    if task is None:
        return config
    available = load_samples(task, limit=config.samples).available
    count = measured_count(available, config.samples)
    rest = min(available - count, held_back_count(count))
    if count != config.samples:
        enough = config.samples + held_back_count(config.samples)
        messages.append(
            f"samples is {count}, not {config.samples}, of both data sets: of {available} task "
            f"samples {rest} are held back to choose the {config.searched} by; {enough} would be "
            "enough for both"
        )
    if rest < FEW:
        messages.append(f"the {config.searched} was chosen by {rest} held-back samples only")
    return config.replace(samples=count)
