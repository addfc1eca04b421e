import io
import json

import pytest
from typer.testing import CliRunner

from hcnr.cli import app
from hcnr.commands import chat as command
from hcnr.data.items import Message
from hcnr.errors import ConfigError, DataError
from hcnr.evaluation.chat import open_chat
from hcnr.evaluation.generation import generate
from hcnr.models.model import open_model
from pairs import tokenizer

TEMPLATE = (
    "{% for turn in messages %}{{ turn.content }} {% endfor %}"
    "{% if add_generation_prompt %}w1 {% endif %}"
)


def templated():
    words = tokenizer()
    words.chat_template = TEMPLATE
    return words


def said(pair, name: str, prompt: str, tokens: int = 4) -> str:
    model, words = open_model(pair[name], device="cpu"), tokenizer()
    ids = list(words(prompt)["input_ids"])
    return generate(model, words, [ids], max_new_tokens=tokens)[0]


def test_both_models_are_asked_the_same_and_keep_their_own_history(pair):
    with open_chat([pair["tuned"], pair["base"]], tokenizer=templated(), device="cpu") as chat:
        assert chat.names == ["tuned", "base"]
        first = chat.ask("w5 w6", max_new_tokens=4)
        second = chat.ask("w7", max_new_tokens=4)
        for name, one, two in zip(chat.names, first, second, strict=True):
            assert one.text == said(pair, name, "w5 w6 w1")
            # What this model itself said stands between the questions.
            assert two.text == said(pair, name, f"w5 w6 {one.text} w7 w1")
        assert first[0].text != first[1].text
        chat.restart()
        assert chat.ask("w5 w6", max_new_tokens=4) == first


def test_a_system_prompt_opens_every_chat(pair):
    models = [pair["tuned"]]
    with open_chat(models, system="w9 w9", tokenizer=templated(), device="cpu") as chat:
        for _ in range(2):
            (found,) = chat.ask("w5", max_new_tokens=4)
            assert found.text == said(pair, "tuned", "w9 w9 w5 w1")
            chat.restart()


def test_without_a_template_every_question_stands_alone(pair):
    with open_chat([pair["tuned"]], device="cpu") as chat:
        for _ in range(2):
            (found,) = chat.ask("w5 w6", max_new_tokens=4)
            assert found.text == said(pair, "tuned", "w5 w6")


def test_a_system_prompt_without_a_template_is_refused(pair):
    with (
        pytest.raises(DataError, match="no chat template, and a system prompt"),
        open_chat([pair["tuned"]], system="w9", device="cpu"),
    ):
        pass


def test_a_chat_that_is_too_long_leaves_the_histories_as_they_were(pair):
    with open_chat([pair["tuned"], pair["base"]], tokenizer=templated(), device="cpu") as chat:
        first = chat.ask("w5", max_new_tokens=4)
        with pytest.raises(DataError, match="the chat so far"):
            chat.ask("w6 " * 5000, max_new_tokens=4)
        chat.restart()
        assert chat.ask("w5", max_new_tokens=4) == first


def test_a_reply_ends_where_the_positions_do(pair):
    with open_chat([pair["tuned"]], device="cpu") as chat:
        context = chat._speakers[0]._model.config.max_position_embeddings
        (most,) = chat.ask("w5 w6", max_new_tokens=10 * context)
        (some,) = chat.ask("w5 w6", max_new_tokens=4)
    assert most.text.startswith(some.text) and 0 < len(most.text.split()) < context


def test_where_one_model_fails_no_history_grows(pair, monkeypatch):
    with open_chat([pair["tuned"], pair["base"]], tokenizer=templated(), device="cpu") as chat:
        first, second = chat._speakers

        def fail(question, max_new_tokens):
            assert first.turns[-1].role == "assistant"
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(second, "answer", fail)
            with pytest.raises(KeyboardInterrupt):
                chat.ask("w5", max_new_tokens=4)
        assert first.turns == second.turns == []


def test_a_model_is_not_asked_twice(pair):
    with pytest.raises(ConfigError, match="given twice"), open_chat([pair["base"], pair["base"]]):
        pass


def test_refusals_are_told(pair):
    with open_chat([pair["tuned"]], tokenizer=templated(), device="cpu") as chat:
        (speaker,) = chat._speakers
        speaker.answer = lambda question, max_new_tokens: "I do not know."
        assert chat.ask("w5")[0].refused


def run(arguments: list[str], text: str):
    return CliRunner().invoke(app, ["chat", *arguments], input=text)


@pytest.mark.parametrize("width", [50, 120])
def test_lines_of_a_file_are_questions(pair, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    found = run(
        [str(pair["tuned"]), "--against", str(pair["base"]), "--device", "cpu",
         "--max-new-tokens", "4"],
        "w5 w6\n\n/new\nw7\n/quit\nw8\n",
    )  # fmt: skip
    assert found.exit_code == 0
    assert [line for line in found.output.splitlines() if line.startswith("you:")] == [
        *("you: w5 w6", "you: w7")
    ]
    for name in ("tuned", "base"):
        assert name in found.output
        assert said(pair, name, "w5 w6").split()[0] in found.output


def test_an_empty_input_is_said(pair):
    found = run([str(pair["tuned"]), "--device", "cpu"], "\n/new\n")
    assert isinstance(found.exception, DataError) and "held no question" in str(found.exception)


def test_replies_as_json(pair):
    found = run([str(pair["tuned"]), "--device", "cpu", "--max-new-tokens", "4", "--json"], "w5\n")
    (one,) = json.loads(found.stdout)
    assert one["question"] == "w5"
    assert one["replies"] == [
        {"model": "tuned", "text": said(pair, "tuned", "w5"), "refused": False}
    ]


def test_at_a_terminal_a_question_that_cannot_be_asked_ends_nothing(pair, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("w6 " * 5000 + "\nw5\n"))
    command.chat(pair["tuned"], device="cpu", max_new_tokens=4)
    printed = capsys.readouterr().out
    assert "/new begins a new chat" in printed and "the chat so far" in printed
    assert said(pair, "tuned", "w5").split()[0] in printed


def test_what_is_no_checkpoint_is_said_first(tmp_path):
    found = run([str(tmp_path / "nothing")], "w5\n")
    assert isinstance(found.exception, Exception) and "nothing" in str(found.exception)


def test_turns_are_those_of_the_chat(pair):
    with open_chat([pair["tuned"]], tokenizer=templated(), device="cpu") as chat:
        (found,) = chat.ask("w5", max_new_tokens=4)
        (speaker,) = chat._speakers
        assert speaker.turns == [Message("user", "w5"), Message("assistant", found.text)]
