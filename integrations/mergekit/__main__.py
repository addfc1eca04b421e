"""`python -m integrations.mergekit RECIPE OUT`: mergekit-yaml that knows `hcnr` and `fisher`."""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import yaml
from mergekit.config import MergeConfiguration
from mergekit.scripts.run_yaml import main as mergekit_yaml
from pydantic import ValidationError

from hcnr.errors import ConfigError, HcnrError
from integrations.mergekit.methods import METHODS, enable
from integrations.mergekit.plan import directory_of, plan


def check(recipe: Path) -> None:
    """Refuse a recipe of one of our methods that cannot be carried out, before anything is written.

    Raises:
        HcnrError: what is missing or does not fit.
    """
    try:
        config = MergeConfiguration.model_validate(yaml.safe_load(recipe.read_text("utf-8")))
    except OSError as error:
        raise ConfigError(f"the recipe {recipe} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValidationError) as error:
        cause = " ".join(str(error).split())
        raise ConfigError(f"the recipe {recipe} is no recipe of mergekit: {cause}") from None
    name = config.merge_method
    if name not in {method.spec.name for method in METHODS}:
        return
    if config.base_model is None or not config.models:
        raise ConfigError(f"{recipe}: {name} needs base_model (base) and models (the tuned one)")
    others = [entry.model for entry in config.models if entry.model != config.base_model]
    if len(others) != 1:
        raise ConfigError(
            f"{recipe}: {name} merges base_model with one tuned model, found {len(others)}"
        )
    texts = {}
    for key in ("statistics", "config"):
        texts[key] = (config.parameters or {}).get(key, "" if key == "config" else None)
        if not isinstance(texts[key], str):
            raise ConfigError(
                f"{recipe}: parameters.{key} is {texts[key]!r}; it must be the path of a file of "
                f"{'`hcnr measure`' if key == 'statistics' else 'hcnr settings'}"
            )
    weight = (config.parameters or {}).get("task_weight", 1.0)
    if name == "fisher" and not (isinstance(weight, int | float) and 0 <= weight < float("inf")):
        raise ConfigError(
            f"{recipe}: parameters.task_weight is {weight!r}; it must be a finite number >= 0"
        )
    plan(directory_of(config.base_model), directory_of(others[0]), **texts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run mergekit's own command with our methods registered; the exit status."""
    try:
        enable()
        words = list(sys.argv[1:] if arguments is None else arguments)
        with mergekit_yaml.make_context("mergekit-yaml", words) as context:
            check(Path(context.params["config_file"]))
            mergekit_yaml.invoke(context)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except HcnrError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
