"""Questions of one's own for the tasks `hcnr_own` and `hcnr_own_task`, read as hcnr reads them.

The harness passes what `--metadata` holds: `questions` and `task_questions`, each a file in any
format of docs/data.md, or `starter`.
"""

from typing import Any

from hcnr.benchmarks.own_questions import load_questions
from hcnr.errors import DataError


def honesty(questions: Any = None, **_: Any) -> dict[str, Any]:
    """The honesty questions, as documents of the split `test`."""
    return _documents("hcnr_own", "questions", questions, task=False)


def task(task_questions: Any = None, **_: Any) -> dict[str, Any]:
    """The questions of the task."""
    return _documents("hcnr_own_task", "task_questions", task_questions, task=True)


def _documents(name: str, key: str, source: Any, *, task: bool) -> dict[str, Any]:
    # The harness brings it, and takes nothing else.
    from datasets import Dataset  # pyright: ignore[reportMissingImports] (the harness's)

    if not isinstance(source, str) or not source:
        raise DataError(
            f"the task {name} does not know its questions; name a file of them with --metadata "
            f'\'{{"{key}": "FILE"}}\''
        )
    questions = load_questions(source, task=task)
    for question in questions.questions:
        if question.turns:
            raise DataError(
                f"{questions.source}: the question {question.id!r} has the turns of a chat, and "
                "the harness asks texts; ask it with hcnr evaluate"
            )
    rows = [question.record() for question in questions.questions]
    return {"test": Dataset.from_list([{**row, "answers": list(row["answers"])} for row in rows])}
