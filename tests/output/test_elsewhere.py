"""An error names an option that the running command has not: whose it is is said."""

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hcnr.cli import app
from hcnr.errors import DataError
from hcnr.output import output_options
from hcnr.output.elsewhere import options_elsewhere

ROOT: Any = typer.main.get_command(app)


class Context:
    """What a sentence is told in: a command of ours."""

    def __init__(self, *words):
        self.command = ROOT
        for word in words:
            self.command = self.command.commands[word]

    def find_root(self):
        return type("Root", (), {"command": ROOT})


@pytest.mark.parametrize(
    ("words", "sentence", "told"),
    [
        (["run"], "measure at tuned (--hessian-at tuned)",
         "; --hessian-at is an option of hcnr restore, not of hcnr run"),
        (["run"], "take (--fisher-at tuned, --hessian-at tuned)",
         "; --fisher-at and --hessian-at are options of hcnr restore, not of hcnr run"),
        (["data", "make"], "ask at the server with --endpoint URL",
         "; --endpoint is an option of hcnr evaluate, not of hcnr data make"),
        (["restore"], "measure at tuned (--hessian-at tuned)", ""),
        (["run"], "hcnr restore --hessian-at tuned does; --overwrite", ""),
        (["run"], "run pip download --no-deps --dest here; or --no-such-option", ""),
    ],
)  # fmt: skip
def test_whose_an_option_is(words, sentence, told):
    assert options_elsewhere(sentence, Context(*words)) == told  # pyright: ignore[reportArgumentType]


def test_the_end_of_an_error_comes_from_the_running_command():
    def plan() -> None:
        raise DataError("lower --damping")

    def restore(damping: float = 0.0) -> None:
        raise DataError("lower --damping")

    own = typer.Typer()
    own.command("plan")(output_options(plan))
    own.command("restore")(output_options(restore))
    for name, told in (
        ("plan", "; --damping is an option of hcnr restore, not of hcnr plan"),
        ("restore", ""),
    ):
        raised = CliRunner().invoke(own, [name]).exception
        assert isinstance(raised, DataError) and vars(raised)["elsewhere"] == told
