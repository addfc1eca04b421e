"""The configuration of an evaluation."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from annotated_types import Ge, Le

from hcnr.config.configuration import Configuration
from hcnr.config.shared import (
    ACCURACY_DROP_WORDS,
    BATCH,
    DATA_ROOT,
    DETECTOR,
    DEVICE,
    DEVICE_WORDS,
    JUDGING,
    LIMIT,
    MAX_ACCURACY_DROP,
    NEW_TOKENS,
    QUESTIONS,
    RESAMPLES,
    WEIGHTS,
)
from hcnr.settings import setting

__all__ = ["EvaluateConfig", "EvaluateSettings"]

Pooling = Literal["auto", "pooler", "cls", "mean"]


class EvaluateConfig(Configuration):
    """How models are asked, how their answers are judged and counted.

    What is asked, of which models, and where it is written are arguments of `hcnr.evaluate`.

    Raises:
        ConfigError: a key is unknown (the nearest known one is named) or a value does not fit.
    """

    limit: int | None = LIMIT
    detector: str | None = DETECTOR
    encoder: Any = setting(
        None,
        JUDGING,
        "Sentence encoder of the detector selfaware: directory or cached name.",
        more="Or a function, see `hcnr.detectors.similarity.open_encoder`.",
    )
    pooling: Pooling = setting("auto", JUDGING, "Of the encoder: auto, pooler, cls or mean.")
    strict: bool = setting(False, JUDGING, "Take typographic apostrophes as they are.")
    compat: bool = setting(
        False,
        JUDGING,
        "Count as the benchmarks' own code does.",
        more="RefuNQ's answers are compared with their case, `selfaware` skips empty responses.",
    )
    data_root: Path | None = DATA_ROOT
    tokenizer: Any = setting(
        None,
        WEIGHTS,
        "Tokenizer for every model; each model's own by default.",
        more="A tokenizer, or its directory.",
        metavar="DIR",
    )
    chat_template: Literal["auto", "never"] = setting(
        "auto", QUESTIONS, "auto uses the tokenizer's; never does not."
    )
    batch_size: int = BATCH
    max_new_tokens: int = NEW_TOKENS
    trait: Any = setting(
        "honesty", JUDGING, "honesty or safety: words and detector.", more="Or a `Trait`."
    )
    calibration: bool = setting(
        False,
        WEIGHTS,
        "Add ECE and AUROC of the refusal's probability.",
        more="Of the trait's refusal sentence.",
    )
    device: str = setting(
        "auto", WEIGHTS, "auto, cpu, cuda or cuda:N.", expected=DEVICE_WORDS, pattern=DEVICE
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", WEIGHTS, "auto (the checkpoint's), float32, bfloat16 or float16."
    )
    resamples: int = setting(RESAMPLES, JUDGING, "Of the bootstrap; 0: none.", ge=0)
    seed: int = setting(0, JUDGING, "Of the bootstrap.", ge=0)
    max_accuracy_drop: float = setting(
        MAX_ACCURACY_DROP,
        WEIGHTS,
        "With --tuned: points of task accuracy that may be lost against it.",
        more="Where more is lost, the model is not recommended.",
        expected=ACCURACY_DROP_WORDS,
        formerly=("max_task_drop",),
        ge=0,
    )
    coefficients: tuple[Annotated[float, Ge(0), Le(1)], ...] | None = setting(
        None,
        WEIGHTS,
        "Coefficients of the interpolation, 0 for tuned to 1 for base; by default a grid that is "
        "refined around the model's task accuracy. They are searched with few questions, see "
        "`hcnr.evaluation.rivals`.",
        expected="at least one coefficient from 0 (tuned) to 1 (base)",
        option=False,
        min_length=1,
    )


class EvaluateSettings(TypedDict, total=False):
    """The same for type checkers, as keyword arguments of `hcnr.evaluate`."""

    limit: int | None
    detector: str | None
    encoder: Any
    pooling: Pooling
    strict: bool
    compat: bool
    data_root: str | Path | None
    tokenizer: Any
    chat_template: Literal["auto", "never"]
    batch_size: int
    max_new_tokens: int
    trait: Any
    calibration: bool
    device: str
    dtype: str
    resamples: int
    seed: int
    max_accuracy_drop: float
    coefficients: Any
