import copy
import pickle
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import hcnr.config
from hcnr.config import RestoreConfig, load_config
from hcnr.errors import ConfigError, HcnrError

# The contract, in order: name -> default.
DEFAULTS = {
    "targets": ("*",),
    "ignore": (),
    "axis": "output",
    "in_weight_ratio": 0.5,
    "cross_weight_ratio": 1.0,
    "priority": "kl",
    "score_normalization": "none",
    "seed": 0,
    "fisher_at": "tuned",
    "compensation": "spectral",
    "hessian_at": "base",
    "task_weight": "auto",
    "coefficient": "auto",
    "max_task_drop_percent": 2.0,
    "steps": 3,
    "step_size": 0.3,
    "damping": 0.01,
    "block_size": None,
    "samples": 128,
    "shuffle_seed": None,
    "max_length": 1024,
    "chat_template": "auto",
    "token_budget": 8192,
    "gradient_checkpointing": "auto",
    "attention": "auto",
    "device": "auto",
    "device_map": None,
    "max_memory": None,
    "dtype": "auto",
    "memory_budget": None,
    "all_hessians": False,
}
# A value of every field that is not its default.
OTHERS = {
    "targets": ("*.q_proj", "*.layers.[01].*"),
    "ignore": ("*down*",),
    "axis": "input",
    "in_weight_ratio": 0.25,
    "cross_weight_ratio": 0.4,
    "priority": "random",
    "score_normalization": "matrix",
    "seed": 7,
    "fisher_at": "base",
    "compensation": "balanced",
    "hessian_at": "tuned",
    "task_weight": 0.0,
    "coefficient": 1.0,
    "max_task_drop_percent": 0.0,
    "steps": 1,
    "step_size": 1e-3,
    "damping": 1e-5,
    "block_size": 64,
    "samples": 3,
    "shuffle_seed": 0,
    "max_length": 2,
    "chat_template": "never",
    "token_budget": 1,
    "gradient_checkpointing": True,
    "attention": "eager",
    "device": "cuda:1",
    "dtype": "bfloat16",
    "device_map": "cuda:1",
    "max_memory": 2.5,
    "memory_budget": 0.25,
    "all_hessians": True,
}
BAD = [
    ("targets", [], "at least one pattern"),
    ("targets", "", "at least one pattern"),
    ("targets", None, "at least one pattern"),
    ("ignore", [1], "patterns"),
    ("axis", "rows", "one of output, input"),
    ("in_weight_ratio", -0.1, "at least 0, at most 1"),
    ("in_weight_ratio", 1.5, "at least 0, at most 1"),
    ("cross_weight_ratio", 1.0001, "at most 1"),
    ("cross_weight_ratio", True, "a finite number"),
    ("cross_weight_ratio", "much", "a finite number"),
    ("priority", "fisher", "kl, honesty, random"),
    ("score_normalization", True, "none, matrix"),
    ("seed", -1, "at least 0"),
    ("seed", 2**32, "at most 4294967295"),
    ("fisher_at", "both", "tuned, base"),
    ("compensation", "sum,natural", "one of none, sum, joint, balanced, spectral, natural"),
    ("compensation", None, "none, sum, joint, balanced"),
    ("hessian_at", 1, "base, tuned"),
    ("task_weight", -1, "auto or a finite number, at least 0"),
    ("task_weight", "much", "auto or a finite number"),
    ("task_weight", True, "auto or a finite number"),
    ("task_weight", None, "auto or a finite number"),
    ("coefficient", 1.01, "auto or a finite number, at least 0, at most 1"),
    ("coefficient", "half", "auto or a finite number, at least 0, at most 1"),
    ("max_task_drop_percent", -0.1, "percent of what fine-tuning gained, a finite number, at"),
    ("steps", 0, "a whole number, at least 1"),
    ("step_size", 0, "a finite number, above 0"),
    ("device_map", "the moon", "auto, disk, a torch device"),
    ("max_memory", 0, "a finite number, above 0, or null"),
    ("memory_budget", 0, "a finite number, above 0, or null"),
    ("memory_budget", "big", "a finite number, above 0, or null"),
    ("task_weight", float("inf"), "finite"),
    ("task_weight", float("nan"), "finite"),
    ("in_weight_ratio", float("nan"), "finite"),
    ("damping", 0, "above 0"),
    ("damping", float("inf"), "finite"),
    ("block_size", 0, "at least 1, or null"),
    ("block_size", False, "a whole number"),
    ("samples", 0, "at least 1"),
    ("samples", 1.5, "a whole number"),
    ("samples", True, "a whole number"),
    ("samples", None, "a whole number"),
    ("shuffle_seed", -1, "at least 0"),
    ("max_length", 1, "at least 2"),
    ("chat_template", "always", "auto, never"),
    ("token_budget", 0, "at least 1"),
    ("gradient_checkpointing", 2, "auto, true or false"),
    ("attention", "flash", "auto, sdpa, eager"),
    ("device", "", "torch device"),
    ("device", "GPU 1", "torch device"),
    ("dtype", "int8", "auto, float32, bfloat16, float16"),
    ("all_hessians", "perhaps", "true or false"),
]


def one_sentence(error: BaseException) -> str:
    text = str(error)
    assert text and "\n" not in text and "pydantic" not in text and len(text) < 1000
    return text


def write(tmp_path, text, name="c.yaml"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_defaults_and_their_order():
    assert RestoreConfig().model_dump() == DEFAULTS
    assert list(RestoreConfig.model_fields) == list(DEFAULTS)


def test_every_field_is_explained_and_grouped():
    groups = []
    for name, field in RestoreConfig.model_fields.items():
        assert field.description and len(field.description) > 20, name
        assert isinstance(field.json_schema_extra, dict)
        groups.append(field.json_schema_extra["group"])
    # Fields of a group stand together, or the YAML would repeat its heading.
    assert sum(a != b for a, b in pairwise(groups)) == len(set(groups)) - 1


@pytest.mark.parametrize("name", list(OTHERS))
def test_other_values_are_taken(name):
    config = RestoreConfig(**{name: OTHERS[name]})
    assert getattr(config, name) == OTHERS[name]
    assert config != RestoreConfig()


@pytest.mark.parametrize(("name", "value", "expected"), BAD)
def test_bad_value_is_one_sentence_that_names_it(name, value, expected):
    with pytest.raises(ConfigError) as caught:
        RestoreConfig(**{name: value})
    text = one_sentence(caught.value)
    assert text.startswith(f"{name} is ")
    assert repr(value) in text
    assert expected in text
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, HcnrError)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("in_wieght_ratio", "in_weight_ratio"),
        ("in-weight-ratio", "in_weight_ratio"),
        ("DAMPING", "damping"),
        ("dampening", "damping"),
        ("chat-templates", "chat_template"),
        ("self", "seed"),
        ("cls", ""),
        ("", ""),
    ],
)
def test_unknown_key_names_the_nearest(key, nearest):
    with pytest.raises(ConfigError, match="unknown configuration key") as caught:
        RestoreConfig(**dict[str, Any]({key: 1}))
    text = one_sentence(caught.value)
    assert repr(key) in text
    guess = text.split("did you mean '")[1].split("'")[0]
    assert guess == nearest if nearest else guess in DEFAULTS


def test_huge_value_does_not_flood_the_message():
    with pytest.raises(ConfigError) as caught:
        RestoreConfig(axis="x" * 10_000)  # pyright: ignore[reportArgumentType]
    one_sentence(caught.value)


def test_frozen():
    with pytest.raises(ValueError, match="frozen"):
        RestoreConfig().damping = 1.0
    assert hash(RestoreConfig()) == hash(RestoreConfig())


def test_replace_validates_and_keeps_the_rest():
    config = RestoreConfig(seed=3).replace(damping=0.5)
    assert (config.seed, config.damping) == (3, 0.5)
    with pytest.raises(ConfigError, match="damping is -1"):
        config.replace(damping=-1)
    with pytest.raises(ConfigError, match="did you mean 'damping'"):
        config.replace(dampin=1)


def test_copies_and_pickles():
    config = RestoreConfig(**OTHERS)
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == config


@pytest.mark.parametrize("name", ["targets", "ignore"])
@pytest.mark.parametrize(
    ("given_", "read"),
    [
        ("*.q_proj", ("*.q_proj",)),
        ("*.q_proj,*.k_proj", ("*.q_proj", "*.k_proj")),
        (" *.q_proj , *.k_proj, ", ("*.q_proj", "*.k_proj")),
        (["*.q_proj", "a,b"], ("*.q_proj", "a", "b")),
        (("a",), ("a",)),
    ],
)
def test_patterns_from_strings_and_lists(name, given_, read):
    assert getattr(RestoreConfig(**{name: given_}), name) == read


def test_no_pattern_to_ignore_can_be_said():
    assert RestoreConfig(ignore="").ignore == ()  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("word", ["none", "null"])
def test_flags_can_say_null(word):
    config = RestoreConfig(block_size=word, shuffle_seed=word)
    assert config.block_size is None and config.shuffle_seed is None


def test_float_without_a_dot_is_read(tmp_path):
    # YAML 1.1 reads 1e-3 as text.
    assert load_config(write(tmp_path, "damping: 1e-3\n")).damping == 1e-3


@pytest.mark.parametrize("config", [RestoreConfig(), RestoreConfig(**OTHERS)])
def test_yaml_round_trip(tmp_path, config):
    text = config.to_yaml()
    again = RestoreConfig.from_file(write(tmp_path, text))
    assert again == config
    assert again.to_yaml() == text
    assert list(yaml.safe_load(text)) == list(DEFAULTS)


def test_yaml_is_commented_one_key_per_line():
    text = RestoreConfig().to_yaml()
    lines = text.splitlines()
    for name, field in RestoreConfig.model_fields.items():
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{name}: "))
        assert lines[at - 1].startswith("# ")
        words = " ".join(line[2:] for line in lines if line.startswith("# "))
        assert field.description and field.description in words
    assert max(map(len, lines)) <= 100


def test_yaml_with_many_and_odd_patterns_survives(tmp_path):
    odd = tuple(f"model.layers.{i}.*['\"#:]{{}}é" for i in range(40))
    config = RestoreConfig(targets=odd)
    assert load_config(write(tmp_path, config.to_yaml())).targets == odd


def values_of(name):
    value = OTHERS[name]
    floats = {
        "in_weight_ratio": st.floats(0, 1),
        "cross_weight_ratio": st.floats(0, 1),
        "task_weight": st.floats(0, allow_infinity=False),
        "damping": st.floats(0, exclude_min=True, allow_infinity=False),
    }
    return floats.get(name, st.sampled_from([value, DEFAULTS[name]]))


@settings(deadline=None)
@given(st.fixed_dictionaries({}, optional={name: values_of(name) for name in DEFAULTS}))
def test_round_trip_of_any_configuration(values):
    config = RestoreConfig(**values)
    assert RestoreConfig(**yaml.safe_load(config.to_yaml())) == config


def test_file_then_overrides(tmp_path):
    path = write(tmp_path, "damping: 0.5\nseed: 3\n")
    assert load_config(path, {"seed": 4}) == RestoreConfig(damping=0.5, seed=4)
    assert RestoreConfig.from_file(path, seed=4) == load_config(path, {"seed": 4})
    assert load_config(None, {"seed": 4}) == RestoreConfig(seed=4)
    assert load_config() == RestoreConfig()
    nulled = load_config(write(tmp_path, "block_size: 8\n"), {"block_size": None})
    assert nulled.block_size is None


def test_a_sequence_of_kinds_may_be_written_with_a_plus():
    for written in ("spectral,natural", "spectral+natural", "spectral, natural"):
        config = RestoreConfig().replace(compensation=written)
        assert config.compensation == "spectral+natural"
        assert config.bases == ("spectral", "natural")


def test_what_follows_from_the_compensation():
    for kind, bases, weighs in (
        ("none", (), False),
        ("joint", (), False),
        ("balanced", (), True),
        ("spectral", ("spectral",), True),
        ("natural", ("natural",), True),
        ("interpolate", (), False),
    ):
        config = RestoreConfig().replace(compensation=kind, in_weight_ratio=0.3)
        assert (config.bases, config.weighs_task) == (bases, weighs)
        assert config.candidate_ratio == (1.0 if bases or kind == "interpolate" else 0.3)


def test_what_is_searched_for():
    for changes, searched in (
        ({}, "task weight"),
        ({"task_weight": 1.0}, None),
        ({"compensation": "sum"}, None),
        ({"compensation": "interpolate"}, "coefficient"),
        ({"compensation": "interpolate", "task_weight": 1.0}, "coefficient"),
        ({"compensation": "interpolate", "coefficient": 0.2}, None),
    ):
        config = RestoreConfig().replace(**changes)
        assert (config.searched, config.searches) == (searched, searched is not None)


def test_a_searched_task_weight_is_no_number():
    config = RestoreConfig(task_weight="auto", compensation="spectral")
    assert config.task_weight == "auto"
    assert RestoreConfig(**yaml.safe_load(config.to_yaml())) == config
    with pytest.raises(ConfigError, match="task_weight is 'auto', expected a number"):
        _ = config.mu
    assert RestoreConfig().replace(task_weight="2.5").mu == 2.5


@pytest.mark.parametrize("text", ["", "# only a comment\n", "\ufeffseed: 0\n", "{}\n"])
def test_files_that_mean_the_defaults(tmp_path, text):
    assert load_config(write(tmp_path, text)) == RestoreConfig()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\naxis: [output\ndamping: 1\n", r"line 3"),
        ("seed: 1\n\tdamping: 1\n", r"line 2"),
        ("seed: 1\ndamping: a: b\n", r"line 2.*mapping values"),
        ("seed: 1\naxis: input\nseed: 2\n", r"line 3.*'seed' is given twice"),
        ("seed: !!python/object:os.system 1\n", r"line 1.*could not determine a constructor"),
        ("seed: 2024-99-99\n", "not valid YAML"),
        ("seed: \x01\n", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("a: &a [*a]\n", "unknown configuration key 'a'"),
        ("targets: &a [*a]\n", "targets is .*expected at least one pattern"),
        ("- seed\n", "found \\['seed'\\] at the top level, expected a mapping"),
        ("seed\n", "found 'seed' at the top level, expected a mapping"),
        ("3\n", "found 3 at the top level"),
        ("in_weight_ratio: 1.5\n", "in_weight_ratio is 1.5, expected"),
        ("damping: .nan\n", "damping is nan, expected"),
        ("damping: yes\n", "damping is True, expected"),
        ("in_weigth_ratio: 0.5\n", "did you mean 'in_weight_ratio'"),
        ("1: 2\n", "unknown configuration key '1'"),
        (b"seed: \xff\n", "not UTF-8"),
    ],
)
def test_bad_file_is_one_sentence_that_names_it(tmp_path, text, expected):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=expected) as caught:
        load_config(path)
    assert str(path) in one_sentence(caught.value)


def test_override_is_blamed_without_the_file(tmp_path):
    path = write(tmp_path, "seed: 1\n")
    with pytest.raises(ConfigError, match=r"^damping is 0") as caught:
        load_config(path, {"damping": 0})
    assert str(path) not in str(caught.value)


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.yaml does not exist"):
        load_config(tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_the_module_itself_needs_no_torch():
    # Loaded by path: the package around it brings torch along.
    code = (
        "import sys, importlib.util as u; spec = u.spec_from_file_location('c', sys.argv[1]);"
        "c = sys.modules['c'] = u.module_from_spec(spec); spec.loader.exec_module(c);"
        "c.RestoreConfig(seed=1).to_yaml();"
        "print([m for m in ('torch', 'transformers', 'triton') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, hcnr.config.__file__]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_presets():
    assert RestoreConfig.from_preset("default") == RestoreConfig()
    paper = RestoreConfig.from_preset("paper")
    assert (paper.compensation, paper.in_weight_ratio, paper.cross_weight_ratio) == (
        "sum",
        0.5,
        0.4,
    )
    assert (paper.axis, paper.priority, paper.samples) == ("output", "kl", 128)
    assert not paper.searches and RestoreConfig().searches
    fast = RestoreConfig.from_preset("fast")
    assert fast == RestoreConfig().replace(task_weight=fast.mu)
    assert RestoreConfig.from_preset("paper", cross_weight_ratio=0.7).cross_weight_ratio == 0.7


def test_files_and_options_win_over_a_preset(tmp_path):
    path = write(tmp_path, "in_weight_ratio: 0.3\n")
    found = load_config(path, {"cross_weight_ratio": 0.9}, preset_name="paper")
    assert found == RestoreConfig.from_preset("paper", in_weight_ratio=0.3, cross_weight_ratio=0.9)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ConfigError, match="'papre' is unknown, expected one of default, paper"):
        load_config(preset_name="papre")
