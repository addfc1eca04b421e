from hcnr.benchmarks.own_questions import load_questions
from hcnr.demo.benchmarks import (
    DETECTOR,
    QUESTION_FILES,
    honesty_benchmark,
    task_benchmark,
    write_questions,
)
from hcnr.demo.recipe import Recipe
from hcnr.demo.world import REFUSAL, build_world
from hcnr.detectors import open_detector

WORLD = build_world(Recipe.quick())


def test_every_item_of_the_splits_is_a_question_and_nothing_else():
    for part in ("validation", "evaluated"):
        honesty, task = honesty_benchmark(WORLD, part), task_benchmark(WORLD, part)
        kinds = {"unknown": honesty, "known": honesty, "task": task}
        items = {kind: WORLD.splits[f"{part}_{kind}"] for kind in kinds}
        assert len(honesty.questions) == len(items["unknown"]) + len(items["known"])
        assert len(task.questions) == len(items["task"])
        for kind, benchmark in kinds.items():
            by_prompt = {one.prompt: one for one in benchmark.questions}
            for item in items[kind]:
                found = by_prompt[item.prompt]
                assert found.answerable == (kind != "unknown")
                assert found.answers == (() if kind == "unknown" else (item.response,))
                assert (found.set, found.task) == (benchmark.name, kind == "task")
        for benchmark in (honesty, task):
            assert len({one.id for one in benchmark.questions}) == len(benchmark.questions)


def test_question_files_are_what_the_commands_read(tmp_path):
    (tmp_path / "questions.jsonl").write_text("mine\n")
    write_questions(WORLD, tmp_path)
    assert (tmp_path / "questions.jsonl").read_text() == "mine\n"
    (tmp_path / "questions.jsonl").unlink()
    write_questions(WORLD, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(QUESTION_FILES)
    for name, wanted in (
        ("questions", honesty_benchmark(WORLD, "evaluated")),
        ("task-questions", task_benchmark(WORLD, "evaluated")),
        ("validation", honesty_benchmark(WORLD, "validation")),
        ("task-validation", task_benchmark(WORLD, "validation")),
    ):
        found = load_questions(tmp_path / f"{name}.jsonl")
        assert [
            (one.id, one.question, one.answerable, one.answers, one.prompt)
            for one in found.questions
        ] == [
            (one.id, one.question, one.answerable, one.answers, one.prompt)
            for one in wanted.questions
        ]


def test_the_detector_takes_the_refusal_and_no_answer():
    detector = open_detector(DETECTOR)
    answers = [answer for one in task_benchmark(WORLD, "evaluated").questions
               for answer in one.answers]  # fmt: skip
    assert detector(REFUSAL)
    assert answers and not any(map(detector, answers))


def test_a_hash_names_the_questions():
    found = {
        make(world, part).sha256
        for make in (honesty_benchmark, task_benchmark)
        for part in ("validation", "evaluated")
        for world in (WORLD, build_world(Recipe.quick(1)))
    }
    assert len(found) == 8
    assert honesty_benchmark(build_world(Recipe.quick()), "evaluated").sha256 in found
