"""Pairs, data and tokenizers in each other's place: refused, or said in one sentence."""

import json
from typing import NamedTuple

import pytest
from transformers import PreTrainedTokenizerFast

import hcnr
from hcnr.data.samples import load_samples
from hcnr.data.suspicions import REFUSING as DETECTORS
from hcnr.data.suspicions import about_losses, about_memory, about_refusals, refusals_in
from hcnr.data.tokens import tokenize
from hcnr.errors import DataError
from pairs import HONESTY, TASK, config, tokenizer, write_jsonl

REFUSING = [{"prompt": f"who {i}?", "response": "I don't know."} for i in range(4)]
ANSWERING = [{"prompt": f"what {i}?", "response": "Paris."} for i in range(4)]


class Losses(NamedTuple):
    base: float
    tuned: float


def samples(*records):
    return load_samples([one for many in records for one in many])


class TestDataSets:
    def test_exchanged(self):
        with pytest.raises(DataError, match=r"seem to be exchanged: 4 of the 8 responses"):
            about_refusals(samples(ANSWERING), samples(REFUSING, ANSWERING))

    def test_exchanged_is_found_before_any_pass(self, pair, tmp_path, monkeypatch):
        monkeypatch.setattr("hcnr.models.directory.open_model", None)
        task = write_jsonl(tmp_path / "task.jsonl", REFUSING)
        with pytest.raises(DataError, match="to --honesty"):
            hcnr.restore(**{**pair, "task": task}, out=tmp_path / "out", config=config())

    def test_honesty_without_a_refusal(self):
        (message,) = about_refusals(samples(ANSWERING), samples(TASK))
        assert "none of the 4 honesty responses is a refusal" in message

    def test_few_refusals(self):
        (message,) = about_refusals(samples(REFUSING[:1], ANSWERING * 4), samples(ANSWERING))
        assert "only 1 of the 17 honesty responses refuse" in message

    def test_a_record_may_say_that_its_response_refuses(self):
        foreign = [{"prompt": "wer 1?", "response": "Keine Ahnung.", "answerable": False}]
        assert refusals_in(samples(foreign, ANSWERING)) == 1
        assert refusals_in(samples(REFUSING, ANSWERING)) == 4
        assert about_refusals(samples(foreign, ANSWERING), samples(ANSWERING)) == []

    def test_not_being_willing_is_a_refusal_for_the_verdict_alone(self):
        unwilling = [{"prompt": "how?", "response": "I cannot assist with that request."}]
        found = samples(unwilling, ANSWERING)
        assert (refusals_in(found), refusals_in(found, DETECTORS)) == (0, 1)

    def test_more_refusals_in_the_task(self):
        (message,) = about_refusals(samples(REFUSING, ANSWERING, HONESTY), samples(REFUSING))
        assert "4 of the 4 task responses refuse and 4 of the 17 honesty responses" in message

    def test_as_they_should_be(self):
        assert about_refusals(samples(REFUSING, ANSWERING), samples(ANSWERING)) == []


class TestModels:
    def test_exchanged(self):
        (message,) = about_losses({"honesty": Losses(3.0, 1.0), "task": Losses(1.0, 2.0)})
        assert "base and tuned (or the two data sets) seem to be exchanged" in message

    @pytest.mark.parametrize(
        ("honesty", "task"),
        [((1, 3), (2, 1)), ((3, 1), (2, 1)), ((1, 3), (1, 2)), ((1, 1), (1, 1))],
    )
    def test_any_other_order(self, honesty, task):
        assert about_losses({"honesty": Losses(*honesty), "task": Losses(*task)}) == []

    def test_said_or_refused_by_a_run(self, learned, tmp_path):
        # What tuned has learned is the honesty set of an exchanged run.
        swapped = {"base": learned["tuned"], "tuned": learned["base"],
                   "honesty": write_jsonl(tmp_path / "h.jsonl", [
                       {"prompt": "w40 w3", "response": "w9 w9"}] * 9),
                   "task": learned["task"]}  # fmt: skip
        out = hcnr.restore(**swapped, out=tmp_path / "out", config=config())
        report = json.loads((out / "hcnr_report.json").read_text())
        losses = report["verdict"]["losses"]
        told = any("seem to be exchanged" in message for message in report["warnings"])
        assert losses["task"]["base"] < losses["task"]["tuned"]
        assert told == (losses["honesty"]["tuned"] < losses["honesty"]["base"])


class TestTokenizers:
    def other(self, shift):
        """The suite's tokenizer with its words in another order from `w0` on."""
        state = json.loads(tokenizer().backend_tokenizer.to_str())
        vocabulary = state["model"]["vocab"]
        words = [word for word in vocabulary if word.startswith("w")]
        for word, other in zip(words[:shift], reversed(words[:shift]), strict=True):
            vocabulary[word] = 3 + words.index(other)
        from tokenizers import Tokenizer

        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(json.dumps(state)),
            bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        )  # fmt: skip

    def with_base(self, pair, tmp_path, shift):
        import shutil

        base = shutil.copytree(pair["base"], tmp_path / "base")
        self.other(shift).save_pretrained(base)
        return {**pair, "base": base}

    def test_of_another_language(self, pair, tmp_path, monkeypatch):
        monkeypatch.setattr("hcnr.models.directory.open_model", None)
        other = self.with_base(pair, tmp_path, 60)
        with pytest.raises(DataError, match=r"read text differently: \d+ of the \d+ tokens.*'w0'"):
            hcnr.measure(**other, config=config())

    def test_with_a_few_other_tokens(self, pair, tmp_path):
        other = self.with_base(pair, tmp_path, 4)
        out = hcnr.restore(**other, out=tmp_path / "out", config=config())
        report = json.loads((out / "hcnr_report.json").read_text())
        assert any("4 of the" in message and "mean something else" in message
                   for message in report["warnings"])  # fmt: skip


class TestMemory:
    """A task that tuned knows by heart tells how it is remembered, not how it is answered."""

    @staticmethod
    def tokens(*responses):
        return tokenize(
            samples([{"prompt": "w1", "response": one} for one in responses]), tokenizer()
        )

    def test_said_where_the_loss_is_far_below_what_new_text_allows(self):
        task = self.tokens("w2 w3", "w4", "w5", "w4 w6")
        (message,) = about_memory(Losses(3.0, 0.02), task)
        assert message.startswith("tuned's loss on the task samples is 0.02 nats a token")
        assert "kept out of the fine-tuning" in message

    @pytest.mark.parametrize("losses", [Losses(3.0, 0.5), Losses(0.05, 0.02), Losses(3.0, 0.1)])
    def test_not_said_where_new_text_allows_it(self, losses):
        assert about_memory(losses, self.tokens("w2", "w3", "w4")) == []

    def test_not_said_of_a_few_labels(self):
        assert about_memory(Losses(3.0, 0.02), self.tokens(*["w2", "w3"] * 4)) == []
        assert about_memory(Losses(3.0, 0.02), self.tokens("w2", "w3", "w4", "w5", *["w6"] * 4))
