"""Models that a server answers for, beside those whose weights are here."""

import contextlib
import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from hcnr.errors import ConfigError
from hcnr.evaluation.answers import Key
from hcnr.evaluation.asking import EvaluationRun, OnAnswer, Responses, answer_missing, members
from hcnr.evaluation.endpoints.server import Endpoint, Server, as_messages, open_server
from hcnr.evaluation.evaluated_models import EvaluatedModel, ask, name_evaluated, opened
from hcnr.evaluation.generation import check_sizes
from hcnr.evaluation.judged import INTERPOLATION
from hcnr.progress import Watcher
from hcnr.versions import versions


@dataclass(frozen=True)
class ServedModel:
    """A model behind a server.

    Attributes:
        label: its name in every table and file, unique in a run.
        server: who is asked.
    """

    label: str
    server: Server

    @property
    def note(self) -> str:
        """What a reader of its numbers should know."""
        return (
            f"{self.label} was asked through {self.server.url}: an endpoint shows no weights, so "
            "there is no fingerprint of it, no calibration and no interpolation."
        )


def check_measurable(models: Sequence[Any], *, calibration: bool, interpolation: bool) -> None:
    """Refuse what cannot be measured where a server answers.

    Raises:
        ConfigError: calibration or interpolation is asked for.
    """
    for asked, what in (
        (calibration, "calibration needs the probabilities of all tokens"),
        (interpolation, "interpolation needs the weights of both ends and of the model"),
    ):
        if asked and any(isinstance(model, Endpoint) for model in models):
            raise ConfigError(
                f"{what}, and an endpoint gives answers only; leave it out, or evaluate the "
                "checkpoint's directory"
            )


def name_models(
    models: Sequence[Any], base: Any, stack: contextlib.ExitStack
) -> list[EvaluatedModel | ServedModel]:
    """Open models and give each a label of its own, as `name_evaluated`; endpoints among them.

    Args:
        models: each a checkpoint directory, a model in memory, or an `Endpoint`.
        base: what adapters are merged into.
        stack: closes the servers.

    Raises:
        HcnrError: as `name_evaluated` and `open_server`.
    """
    evaluated_models = name_evaluated(
        [one for one in models if not isinstance(one, Endpoint)], base
    )
    local, taken = iter(evaluated_models), {one.label for one in evaluated_models}
    named: list[EvaluatedModel | ServedModel] = []
    served = [open_server(one) for one in models if isinstance(one, Endpoint)]
    for server in served:
        stack.callback(server.close)
    remaining = iter(served)
    for model in models:
        if not isinstance(model, Endpoint):
            named.append(next(local))
            continue
        server = next(remaining)
        for other in named:
            if isinstance(other, ServedModel) and (server.url, server.model) == (
                other.server.url, other.server.model,
            ):  # fmt: skip
                raise ConfigError(
                    f"the model {server.model!r} of {server.url} is given twice; give each model "
                    "once"
                )
        label = _label(server, taken)
        taken.add(label)
        named.append(ServedModel(label, server))
    return named


def _label(server: Server, taken: set[str]) -> str:
    name = server.model
    if name.startswith(("/", "./", "../", "~")) or name.endswith(".gguf"):
        # llama.cpp names a model by its file.
        name = PurePath(name.replace("\\", "/")).name
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "served"
    if label in taken or label.startswith(INTERPOLATION):
        identity = f"{server.url} {server.model}".encode()
        label = f"served-{label}-{hashlib.sha256(identity).hexdigest()[:8]}"
    return label


def answers_of(run: EvaluationRun, evaluated: EvaluatedModel | ServedModel) -> Responses:
    """Ask a model, wherever it is."""
    if isinstance(evaluated, ServedModel):
        return ask_served(run, evaluated)
    with opened(evaluated, run.config.tokenizer, run.opening) as (network, reader):
        return ask(run, evaluated.label, evaluated.sha256, network, reader)


def ask_served(run: EvaluationRun, evaluated: ServedModel) -> Responses:
    """Ask a server every question that it has not answered yet, `batch_size` at once.

    Raises:
        DataError: a question cannot be asked.
        ModelError: the server does not answer.
        OutputError: the answers kept are another model's.
    """
    config = run.config
    check_sizes(config.batch_size, config.max_new_tokens)
    questions, server = members(run.question_sets), evaluated.server
    keys: list[Key] = [(name, one.id, _hash(as_messages(one.asked))) for name, one in questions]
    facts = {
        "model": evaluated.label,
        "endpoint": server.url,
        "served": server.model,
        "max_new_tokens": config.max_new_tokens,
        "chat_template": config.chat_template,
        "hcnr": versions().get("hcnr"),
    }

    def answering(missing: list[int], keep: OnAnswer, watcher: Watcher) -> None:
        def answer(index: int) -> str:
            name = f"question {keys[index][1]!r} of {keys[index][0]}"
            prompt = questions[index][1].asked
            return server.answer(prompt, config.max_new_tokens, name, config.chat_template)

        with ThreadPoolExecutor(min(config.batch_size, len(missing))) as pool:
            try:
                waiting = {pool.submit(answer, index): n for n, index in enumerate(missing)}
                for done, future in enumerate(as_completed(waiting), 1):
                    keep(waiting[future], future.result())
                    watcher.advance(done, len(missing))
            except BaseException:
                # The rest is neither asked nor waited for.
                pool.shutdown(wait=False, cancel_futures=True)
                server.close()
                raise

    return Responses(answer_missing(run, evaluated.label, facts, keys, answering), {})


def _hash(messages: list[dict[str, Any]]) -> str:
    text = json.dumps(messages, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
