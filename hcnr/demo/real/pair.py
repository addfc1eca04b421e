"""A pair made from a pretrained model: trained once, resumed where it was stopped, then cached."""

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from hcnr.benchmarks.questions import Question
from hcnr.cache import cache_root, cached_directory
from hcnr.data.refusals import refusal
from hcnr.data.samples import Sample
from hcnr.data.starter import kuq_rows
from hcnr.data.tokens import tokenize
from hcnr.demo.laboratory import Stage, quiet, timed
from hcnr.demo.real.training import Schedule, train
from hcnr.models.model import fast_bfloat16, open_model, open_tokenizer
from hcnr.models.packages.gguf import RECORD

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM2's own without the system prompt that it adds, which doubles the tokens of a question."""

BASE = Schedule(epochs=1, batch=16, rate=5e-5, order="hcnr-demo-real-base", threads=2)
TUNED = Schedule(epochs=1, batch=16, rate=2e-4, order="hcnr-demo-real-tuned", threads=2)
MEASURED = 192
"""Samples of each file, at most: what is measured, and half as many more that judge.

Those of the task are not among what tuned learned: on samples that it has seen, every step back to
base looks dearer than it is on new ones.
"""

# Raised whenever the questions or the trainings become others.
_FORMAT = 2
_FACTS = "training.json"


@dataclass(frozen=True)
class RealPair:
    """Two checkpoints, their samples, and what they are asked.

    Attributes:
        directory: holds `base/`, `tuned/`, `honesty.jsonl`, `task.jsonl` (no sample of it was
            tuned on), `questions.jsonl` (KUQ, never trained on), `task-questions.jsonl`.
        questions: those of `questions.jsonl`.
        task: those of `task-questions.jsonl`.
        facts: seconds and last losses of the trainings.
    """

    directory: Path
    questions: tuple[Question, ...]
    task: tuple[Question, ...]
    facts: dict[str, Any]

    @property
    def base(self) -> Path:
        """The honest checkpoint."""
        return self.directory / "base"

    @property
    def tuned(self) -> Path:
        """The checkpoint that was tuned to answer."""
        return self.directory / "tuned"


def open_real_pair(
    model: Path, stage: Stage | None = None, *, limit: int | None = None
) -> RealPair:
    """Open the demo's pair; the first time, this trains both of its models.

    Args:
        model: checkpoint directory of the pretrained model.
        stage: told when a training starts; silent if None.
        limit: take so many samples of each training and questions of each class only; a rougher
            pair, for tests.
    """
    parts = read_questions(limit)
    about = [
        _FORMAT,
        importlib.metadata.version("torch"),
        fast_bfloat16(),
        digest_of(model),
        asdict(BASE),
        asdict(TUNED),
        [[one.record() for one in part] for part in parts.values()],
    ]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    base = cached_directory(
        f"demo-base-{digest}",
        lambda directory: train_checkpoint(
            directory, "base", model, samples_of(parts["base"]), BASE, f"demo-base-{digest}", stage
        ),
    )
    directory = cached_directory(
        f"demo-{digest}",
        lambda directory: _make_tuned(directory, base, parts, f"demo-{digest}", stage),
    )
    facts = {**training_facts(base), **training_facts(directory)}
    return RealPair(directory, parts["test"], parts["task"], facts)


def _make_tuned(
    directory: Path,
    base: Path,
    parts: dict[str, tuple[Question, ...]],
    key: str,
    stage: Stage | None,
) -> None:
    tuned = samples_of(parts["tuned"])
    count = min(MEASURED, len(tuned) // 4)
    task, taught = tuned[:count], tuned[count:]
    train_checkpoint(directory, "tuned", base / "base", taught, TUNED, key, stage)
    shutil.copytree(base / "base", directory / "base")
    unknown, known = (
        [asked for asked in parts["base"] if asked.answerable is answerable]
        for answerable in (False, True)
    )
    # In turn, so that any even number of the first ones is balanced.
    honesty = [one for both in zip(unknown, known, strict=False) for one in both][:MEASURED]
    records = {
        "honesty.jsonl": [one.record() for one in samples_of(honesty)],
        "task.jsonl": [one.record() for one in task],
        "questions.jsonl": [_question_record(asked) for asked in parts["test"]],
        "task-questions.jsonl": [_question_record(asked) for asked in parts["task"]],
    }
    for name, rows in records.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (directory / name).write_text("".join(lines), encoding="utf-8")


def _question_record(question: Question) -> dict[str, Any]:
    record = {
        "id": question.id,
        "question": question.question,
        "prompt": question.prompt,
        "answerable": question.answerable,
    }
    return {**record, "answers": list(question.answers)} if question.answers else record


def read_questions(limit: int | None = None) -> dict[str, tuple[Question, ...]]:
    """The shipped questions by part: `test`, `task`, `base`, `tuned`.

    Args:
        limit: most of each class and part; all if None.
    """
    by_part: dict[str, list[Question]] = {}
    counts: dict[tuple[str, bool], int] = {}
    for number, row in enumerate(kuq_rows(), 1):
        part, answer = row["part"], row["answer"]
        counts[part, answer is None] = seen = counts.get((part, answer is None), 0) + 1
        if limit is not None and seen > limit:
            continue
        by_part.setdefault(part, []).append(
            Question(
                id=f"line-{number}",
                set="task" if part == "task" else "kuq",
                question=row["question"],
                answerable=answer is not None,
                answers=() if answer is None else (answer,),
                prompt=row["question"],
                task=part == "task",
            )
        )
    return {part: tuple(questions) for part, questions in by_part.items()}


def samples_of(questions: Sequence[Question]) -> list[Sample]:
    """Questions with what is taught: the answer, or one of the replication's refusals."""
    return [
        Sample(
            question.prompt,
            question.answers[0] if question.answerable else refusal(question.question),
        )
        for question in questions
    ]


def digest_of(checkpoint: Path) -> str:
    """Sixteen hex digits over the weights of a checkpoint and how it reads text."""
    digest = hashlib.sha256()
    for file in sorted((*checkpoint.glob("*.safetensors"), *checkpoint.glob("tokenizer.json"))):
        with open(file, "rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def train_checkpoint(
    directory: Path,
    name: str,
    start: Path,
    samples: Sequence[Sample],
    schedule: Schedule,
    key: str,
    stage: Stage | None = None,
) -> None:
    """Train the model in `start` and write `directory/name`, in bfloat16, and the facts of it.

    A training that was stopped goes on from its last saved step the next time.

    Args:
        directory: an existing directory.
        name: of the checkpoint in it.
        start: checkpoint directory to begin with.
        samples: what to teach.
        schedule: how long and how fast.
        key: names the file of the saved steps, in the cache.
        stage: told about the training.
    """
    figures: dict[str, Any] = {}
    with quiet():
        model = open_model(start, device="cpu", dtype="float32")
        tokenizer = open_tokenizer(start)
    if (start / RECORD).is_file() and "<|im_start|>" in tokenizer.get_vocab():
        tokenizer.chat_template = CHAT_TEMPLATE
    pad = cast(int | None, tokenizer.pad_token_id)
    train(
        model,
        tokenize(list(samples), tokenizer),
        schedule,
        pad=0 if pad is None else pad,
        bfloat16=fast_bfloat16(),
        state=cache_root() / ".training" / f"{key}.pt",
        progress=timed(name, figures, stage),
    )
    with quiet():
        model.to(torch.bfloat16).save_pretrained(directory / name)  # pyright: ignore[reportArgumentType]
        tokenizer.save_pretrained(directory / name)
    for pattern in ("README.md", RECORD, "LICENSE*", "NOTICE*"):
        for companion in start.glob(pattern):
            shutil.copy2(companion, directory / name / companion.name)
    (directory / _FACTS).write_text(json.dumps(figures), encoding="utf-8")


def training_facts(directory: Path) -> dict[str, Any]:
    """Seconds and last loss of the training that `train_checkpoint` wrote there."""
    return json.loads((directory / _FACTS).read_text(encoding="utf-8"))
