"""YAML files of settings: read whole, or refused in one sentence."""

import reprlib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from hcnr.settings import config_error


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys without a word; a setting must not be lost so."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Build one mapping, refusing a repeated key."""
        seen = set()
        for key_node, _ in node.value:
            key = getattr(key_node, "value", None)
            if isinstance(key, str):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key!r} is given twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, keys as strings."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise config_error(
            f"the configuration file {path} does not exist; check the path"
        ) from None
    except UnicodeDecodeError:
        raise config_error(
            f"the configuration file {path} is not UTF-8 text; expected a YAML file, save it as "
            "UTF-8"
        ) from None
    except OSError as error:
        raise config_error(
            f"the configuration file {path} cannot be read ({error.strerror}); expected a "
            "readable YAML file"
        ) from None
    try:
        loaded = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f", line {mark.line + 1}" if mark else ""
        raise config_error(
            f"{path}{at}: this is not valid YAML ({error.problem or error.context}); write one "
            "'key: value' per line"
        ) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise config_error(
            f"{path}: this is not valid YAML ({reason}); write one 'key: value' per line"
        ) from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise config_error(
            f"{path}: found {reprlib.repr(loaded)} at the top level, expected a mapping; write "
            "one 'key: value' per line"
        )
    return {str(key): value for key, value in loaded.items()}
