"""The configuration of a restoration: every setting, what it does and what it may be."""

import re
import textwrap
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Le
from pydantic import ValidationInfo, field_validator, model_validator

from hcnr.config.configuration import Configuration
from hcnr.config.presets import preset
from hcnr.config.shared import DEVICE, DEVICE_WORDS, LARGEST_SEED
from hcnr.kinds import KINDS, Axis, Basis, RepairKind, plain_name, repair_kind
from hcnr.settings import config_error, declared, expected_of, setting

__all__ = ["RestoreConfig"]

_HEADER = "# Settings of one hcnr run, all of them: give this file to --config to run it again.\n"


class RestoreConfig(Configuration):
    """Every setting of a run; construction refuses unknown keys and values out of range.

    Raises:
        ConfigError: a key is unknown (the nearest known one is named) or a value does not fit.
    """

    targets: tuple[str, ...] = setting(
        ("*",),
        "Matrices",
        "Glob patterns; a linear map inside the transformer blocks whose name matches one of "
        "them may be repaired (method.md, section 1).",
        min_length=1,
    )
    ignore: tuple[str, ...] = setting(
        (), "Matrices", "Glob patterns of names to leave as tuned, even when targets matches."
    )

    axis: Axis = setting(
        "output",
        "Selection",
        "What a neuron is: a row (output) or a column (input) of a matrix (method.md, section 1).",
    )
    in_weight_ratio: float = setting(
        0.5,
        "Selection",
        "R_IW, the share of each matrix's neurons that are candidates, method.md (3); spectral and "
        "natural take all.",
        ge=0,
        le=1,
    )
    cross_weight_ratio: float = setting(
        1.0,
        "Selection",
        "R_CW, the share of matrices, most perturbed first, that are repaired, method.md (4); the "
        "paper's is 0.4.",
        ge=0,
        le=1,
    )
    priority: Literal["kl", "honesty", "random"] = setting(
        "kl",
        "Selection",
        "How neurons are ranked: kl weighs honesty against the task, method.md (3), honesty "
        "leaves the task out, random is the control.",
    )
    score_normalization: Literal["none", "matrix"] = setting(
        "none",
        "Selection",
        "matrix scales each matrix's scores to sum 1 before the logarithm of method.md (3).",
    )
    seed: int = setting(
        0, "Selection", "Seed of priority random; used by nothing else.", ge=0, le=LARGEST_SEED
    )
    fisher_at: Literal["tuned", "base"] = setting(
        "tuned", "Selection", "The model at which Fisher scores, method.md (1), are taken."
    )

    compensation: str = setting(
        "spectral",
        "Compensation",
        "spectral, method.md (10), repairs whole matrices, direction by direction, by curvature of "
        "both axes on both data sets; natural (12) steps down the honesty loss, also after it as "
        "spectral+natural. interpolate (11) mixes every tensor with base's and measures nothing. "
        "The others restore neurons and differ in what these do about the task neurons beside "
        "them: none (6), sum (7, the paper's), joint (8, exact), balanced (9).",
        choices=tuple(KINDS),
    )
    hessian_at: Literal["base", "tuned"] = setting(
        "base",
        "Compensation",
        "The model of the honesty curvature, method.md (5); natural always takes tuned.",
    )
    task_weight: Annotated[float, Ge(0)] | Literal["auto"] = setting(
        "auto",
        "Compensation",
        "mu, the weight of task data against honesty data in balanced, spectral and natural, "
        "method.md (9), (10) and (12); auto searches the smallest that max_task_drop_percent "
        "allows. The other kinds have none.",
    )
    coefficient: Annotated[float, Ge(0), Le(1)] | Literal["auto"] = setting(
        "auto",
        "Compensation",
        "c of interpolate, method.md (11): 0 the tuned model and 1 base; auto searches the largest "
        "that max_task_drop_percent allows. The other kinds have none.",
    )
    max_task_drop_percent: float = setting(
        2.0,
        "Compensation",
        "What of the task may be lost, for the search and for the verdict: percent of what "
        "fine-tuning gained in likelihood, on task samples held back from measuring.",
        expected="percent of what fine-tuning gained, a finite number, at least 0",
        formerly=("max_task_drop",),
        ge=0,
    )
    steps: int = setting(3, "Compensation", "Steps of natural, method.md (12).", ge=1)
    step_size: float = setting(
        0.3,
        "Compensation",
        "Length of a step of natural, as a share of the Frobenius norm of W1 - W0 over all "
        "repaired matrices.",
        gt=0,
    )
    damping: float = setting(
        0.01,
        "Compensation",
        "lambda, added to curvature diagonals as a share of their mean, method.md (13).",
        gt=0,
    )
    block_size: int | None = setting(
        None,
        "Compensation",
        "Use curvature in diagonal blocks of this many neurons; null uses whole matrices.",
        ge=1,
    )

    samples: int = setting(128, "Data", "Samples used of each data file.", ge=1)
    shuffle_seed: int | None = setting(
        None,
        "Data",
        "Seed that shuffles each data file before samples are taken; null takes the first ones.",
        ge=0,
        le=LARGEST_SEED,
    )
    max_length: int = setting(
        1024, "Data", "Tokens kept of a sample; a longer one loses the left of its prompt.", ge=2
    )
    chat_template: Literal["auto", "never"] = setting(
        "auto", "Data", "auto renders samples by the tokenizer's chat template if it has one."
    )

    token_budget: int = setting(
        8192, "Measuring", "Padded tokens of one micro-batch; memory grows with it.", ge=1
    )
    gradient_checkpointing: bool | Literal["auto"] = setting(
        "auto",
        "Measuring",
        "Recompute activations in the backward pass: less memory, more time. auto does where what "
        "the plan counts is more than what the device has free.",
    )
    attention: Literal["auto", "sdpa", "eager"] = setting(
        "auto", "Measuring", "Attention implementation; auto leaves it to transformers."
    )
    device: str = setting(
        "auto",
        "Measuring",
        "Where to compute: cpu, cuda, cuda:1 and so on; auto takes a GPU if there is one.",
        expected=DEVICE_WORDS,
        pattern=DEVICE,
    )
    device_map: str | None = setting(
        None,
        "Measuring",
        "Where weights are: auto keeps on the device as many blocks as max_memory holds and reads "
        "the others from the checkpoint when they run; disk reads all; a device keeps all there. "
        "null keeps all on device.",
        expected="auto, disk, a torch device such as cpu or cuda:1, or null",
        pattern=DEVICE,
    )
    max_memory: float | None = setting(
        None,
        "Measuring",
        "GiB for weights at once, where device_map is auto or disk. null takes half of what is "
        "free.",
        gt=0,
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto",
        "Measuring",
        "Compute dtype while measuring; auto keeps the checkpoint's, or takes float32 on a "
        "processor that does not multiply its own.",
    )
    memory_budget: float | None = setting(
        None,
        "Measuring",
        "GiB for curvature at once; matrices are measured in as many groups as it takes. null "
        "takes half of what is free, or less beside recomputed blocks.",
        gt=0,
    )
    all_hessians: bool = setting(
        False,
        "Measuring",
        "Collect the curvature that compensation needs for every matrix, so that the statistics "
        "serve any later selection; otherwise only for the selected ones.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_device(cls, values: Any) -> Any:
        """A device map that is a device is the device."""
        if not isinstance(values, dict) or values.get("device", "auto") != "auto":
            return values
        device_map = values.get("device_map")
        named = isinstance(device_map, str) and re.fullmatch(DEVICE, device_map)
        if not named or device_map in ("auto", "disk", "none", "null"):
            return values
        return {**values, "device": device_map}

    @field_validator("device_map")
    @classmethod
    def _same_device(cls, value: str | None, info: ValidationInfo) -> str | None:
        device = info.data.get("device")
        if value not in (None, "auto", "disk") and device not in (None, "auto", value):
            raise config_error(
                f"device is {device!r} and device_map {value!r}, and a model is on one of them; "
                "leave one out"
            )
        return value

    @field_validator("compensation", mode="before")
    @classmethod
    def _known_kind(cls, value: Any) -> Any:
        """The name of a kind as the registry has it."""
        if not isinstance(value, str):
            return value
        try:
            return repair_kind(plain_name(value)).name
        except KeyError:
            raise ValueError("no such kind") from None

    @classmethod
    def from_preset(cls, name: str, /, **changes: Any) -> "RestoreConfig":
        """Take the settings of a preset, with some changed.

        Args:
            name: one of `PRESETS`.
            changes: settings that win over the preset's.

        Raises:
            ConfigError: there is no such preset, or a setting is refused.
        """
        return cls(**{**preset(name), **cls.renamed(changes)})

    @property
    def max_task_drop(self) -> float:
        """The former name of `max_task_drop_percent`."""
        return self.max_task_drop_percent

    @property
    def searches(self) -> bool:
        """Whether anything is searched for on held-back samples, see `searched`."""
        return self.searched is not None

    @property
    def searched(self) -> Literal["task weight", "coefficient"] | None:
        """What is searched for: what is auto and the compensation has; None where nothing is."""
        if self.interpolates:
            return "coefficient" if self.coefficient == "auto" else None
        return "task weight" if self.task_weight == "auto" and self.weighs_task else None

    @property
    def streams(self) -> bool:
        """Whether weights are read from the checkpoint when their block runs."""
        return self.device_map in ("auto", "disk")

    @property
    def recomputes(self) -> bool:
        """Whether blocks are recomputed in backward; not while it is still to be decided."""
        return self.gradient_checkpointing is True

    @property
    def kind(self) -> RepairKind:
        """What the compensation repairs and needs."""
        return repair_kind(self.compensation)

    @property
    def interpolates(self) -> bool:
        """Whether all weights are mixed with base's, and nothing is measured or selected."""
        return self.kind.scope == "tensors"

    @property
    def mu(self) -> float:
        """The task weight as a number, once it is one."""
        if self.task_weight == "auto":
            raise config_error(
                "task_weight is 'auto', expected a number here: only restore searches for it; give "
                "numbers to task_weight"
            )
        return self.task_weight

    @property
    def bases(self) -> tuple[Basis, ...]:
        """Which bases of method.md (10) the compensation needs; none of a one-axis kind."""
        return self.kind.bases

    @property
    def weighs_task(self) -> bool:
        """Whether the compensation has a task weight."""
        return self.kind.weighs_task

    @property
    def candidate_ratio(self) -> float:
        """Share of each matrix's neurons that are candidates: all where matrices are whole."""
        return self.in_weight_ratio if self.kind.scope == "neurons" else 1.0

    def to_yaml(self) -> str:
        """Return every setting with its explanation, as YAML that `from_file` reads back equal."""
        lines, group = [_HEADER], None
        for name, field in type(self).model_fields.items():
            if declared(field, "group") != group:
                group = declared(field, "group")
                lines.append(f"\n# {group}\n")
            about = f"{field.description} Expected: {expected_of(field)}."
            lines.append(textwrap.indent(textwrap.fill(about, 96), "# ") + "\n")
            value = getattr(self, name)
            plain = list(value) if isinstance(value, tuple) else value
            # Only lists in flow style; infinite width because a folded list reads badly.
            text = yaml.safe_dump(plain, default_flow_style=True, width=float("inf"))
            lines.append(f"{name}: {text.splitlines()[0]}\n")
        return "".join(lines)
