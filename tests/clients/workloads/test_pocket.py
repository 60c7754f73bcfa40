"""Laws every pocket family obeys, checked against solvers written a second time from the rules."""

import random
import re
from collections.abc import Callable

import pytest

from clients.workloads.pocket import DEMO_FAMILIES, FAMILIES, draw, problems, split_of

SPLITS = ("train", "tune", "eval")


def chain(seed: str, length: int) -> list[int]:
    """v[i] = v[i-4] + v[i-1] mod 10 behind the seed digits."""
    values = list(map(int, seed))
    while len(values) < length:
        values.append((values[-4] + values[-1]) % 10)
    return values


def solve_hop(letters: str, seed: str, steps: str) -> list[int]:
    table = chain(seed, 10 * len(letters))
    position, seen = table[-1], []
    for count in range(int(steps)):
        row = count % len(letters)
        position = (table[10 * row + position] + int(steps) - count) % 10
        seen.append(position)
    return seen


def solve_acct(letters: str, seed: str, steps: str) -> list[int]:
    table = chain(seed, 10 * len(letters))
    amount, account, seen = table[-5], table[-1], []
    for count in range(int(steps)):
        place = 10 * (count % len(letters)) + account
        amount, table[place] = table[place], (table[place] + amount) % 10
        account = table[place]
        seen.append(account)
    return seen


def solve_memo(seed: str, steps: str) -> list[int]:
    values = list(map(int, seed))
    for index in range(4, 4 + int(steps)):
        reach = 2 if values[-1] < 5 else 3
        values.append((values[index // reach] + values[-1]) % 10)
    return values


def solve_grid(seed: str, shape: str) -> list[int]:
    width, rows = ord(shape[0]) - ord("a") + 1, int(shape[2:])
    cells = chain(seed, width)
    for _ in range(rows * width):
        cells.append((cells[-width] + cells[-1]) % 10)
    return cells


SOLVERS: dict[str, Callable[..., list[int]]] = {
    "hop": solve_hop,
    "duo": solve_hop,
    "acct": solve_acct,
    "memo": solve_memo,
    "grid": solve_grid,
}


@pytest.fixture(params=list(FAMILIES))
def task(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_there_are_four_demo_families_and_a_control() -> None:
    assert set(DEMO_FAMILIES) == set(FAMILIES) - {"grid"}
    assert [family.name for family in FAMILIES.values()] == list(FAMILIES)


def test_the_answer_follows_from_the_prompt_alone(task: str) -> None:
    for problem in problems(task, 200, seed=3):
        name, rest = problem.prompt.split(" ")
        values = SOLVERS[task](*rest.split(";"))
        assert name == task == problem.task
        assert problem.answer == "".join(map(str, values[-3:]))


def test_every_look_up_in_a_trace_repeats_the_latest_value_written(task: str) -> None:
    """Reading a trace left to right, a key is either new, read unchanged, or just rewritten."""
    rng = random.Random(5)
    for size in (0.1, 0.5, 1.0):
        trace = draw(FAMILIES[task], rng, size, "eval").trace
        known: dict[str, str] = {}
        for line in trace.split(";")[:-1]:
            *read, (key, value) = re.findall(r"([a-z]\d?|\d\d)>(\d)", line)
            for read_key, read_value in read:
                assert known[read_key] == read_value
            sums = re.fullmatch(r".*>(\d)\+(\d)(?:=|[^>]*>)(\d)", line)
            if sums:
                left, right, total = map(int, sums.groups())
                assert (left + right) % 10 == total
            known[key] = value


def test_the_trace_ends_in_the_answer(task: str) -> None:
    for seed in range(50):
        instance = draw(FAMILIES[task], random.Random(seed), 0.4, "eval")
        results = re.findall(r"(\d);", instance.trace)
        assert "".join(results[-3:]) == instance.answer
        assert instance.completion == f"{instance.trace}</think>\\boxed{{{instance.answer}}}"


def test_splits_share_no_seed_digits(task: str) -> None:
    seeds = [f"{number:04}" for number in range(10_000)]
    sizes = {split: sum(split_of(task, seed) == split for seed in seeds) for split in SPLITS}
    assert sum(sizes.values()) == len(seeds)
    assert 800 < sizes["eval"] < 1200
    assert 800 < sizes["tune"] < 1200
    for split in SPLITS:
        drawn = [problem.prompt for problem in problems(task, 100, 0, split)]
        digits = [re.findall(r"\d{4}", prompt)[0] for prompt in drawn]
        assert {split_of(task, seed) for seed in digits} == {split}


def test_problems_are_distinct_and_named_by_their_arguments(task: str) -> None:
    first = problems(task, 60, seed=1)
    assert first == problems(task, 60, seed=1)
    assert first[:20] == problems(task, 20, seed=1)
    assert first != problems(task, 60, seed=2)
    assert len({problem.prompt for problem in first}) == 60
    assert len({problem.id for problem in first}) == 60


def test_an_id_says_which_problem_it_is() -> None:
    problem = problems("memo", 1, seed=1)[0]
    assert re.fullmatch(r"memo-\d{4}-\d\d", problem.id)
    assert problem.id.split("-")[1:] == re.findall(r"\d+", problem.prompt)


def test_prompts_are_short_and_traces_long(task: str) -> None:
    """In bytes; tokens are fewer. The prompt is pinned, so only the trace can be evicted."""
    for problem in problems(task, 200, seed=4):
        instance = FAMILIES[task].solve(problem.prompt)
        assert instance is not None
        assert len(problem.prompt) <= 16
        assert len(instance.trace) > 100


@pytest.mark.parametrize(
    "prompt",
    ["hop g;0000;20", "duo gh;5505;20", "acct f;0000;20", "memo 5050;30", "grid 0000;f>4"],
)
def test_degenerate_problems_are_refused(prompt: str) -> None:
    assert FAMILIES[prompt.split()[0]].solve(prompt) is None


def test_no_walk_is_caught_in_a_short_cycle() -> None:
    for task in ("hop", "duo", "acct"):
        for problem in problems(task, 200, seed=6):
            instance = FAMILIES[task].solve(problem.prompt)
            assert instance is not None
            visited = re.findall(r"\d+:([a-z]\d)>", instance.trace)[-20:]
            assert len(set(visited)) >= min(6, (len(visited) + 1) // 2)


def test_the_written_example_reads_as_documented() -> None:
    instance = FAMILIES["memo"].solve("memo 0479;2")
    assert instance is not None
    assert instance.trace == "00>0;01>4;02>7;03>9;2:01>4+904>3;1:02>7+305>0;"
    assert instance.answer == "930"


def test_an_unknown_task_is_named_in_the_error() -> None:
    with pytest.raises(ValueError, match="unknown pocket task 'sudoku': choose from hop"):
        problems("sudoku", 1, 0)
