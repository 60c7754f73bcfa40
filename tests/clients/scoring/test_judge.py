"""math-verify in its processes: what it says, and that nothing it is asked can hang a run."""

import threading
import time
from collections.abc import Iterator

import pytest

from clients.scoring import score_math
from clients.scoring.judge import Judge

TOWER = r"\boxed{9^{9^{9^{9}}}}"


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    made = Judge(workers=1, seconds=30.0)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (r"2\sqrt{3}", r"\sqrt{12}"),
        ("0.5", r"\frac{1}{2}"),
        (r"25\%", "0.25"),
        ("x>1", r"(1,\infty)"),
        (r"2 \le x < 5", "[2,5)"),
        (r"\{2, 1\}", r"\{1,2\}"),
        (r"(x+1)^2", "x^2+2x+1"),
        ("n = 5", "5"),
        ("5!", "120"),
        (r"\pm 2", "2, -2"),
        (r"3\frac12", r"\frac72"),
        (r"\begin{bmatrix}1\\2\end{bmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"90^\circ", "90"),
        (r"\$18.90", "18.9"),
        (r"\approx 7", "7"),
        (r"2^{10}", "1024"),
        ("33", "033"),
    ],
)
def test_equal(judge: Judge, answer: str, gold: str) -> None:
    assert score_math(rf"\boxed{{{answer}}}", gold, judge=judge).correct


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("3*x-1*y+13=0", "3x + 4y + 14=0"),  # both are read as 0 without $
        ("21, 49, 70", "70"),
        ("(2,1)", "(1,2)"),
        ("[0,1]", "(0,1)"),
        ("x<3", "x>3"),
        ("7 or 8", "7"),
        (r"\frac12 x", r"\frac12"),
        ("1 2", "12"),
        (r"\frac\{", "5"),
        (r"\text{five}", "5"),
        (r"x^2=4", "2"),
    ],
)
def test_different(judge: Judge, answer: str, gold: str) -> None:
    score = score_math(rf"\boxed{{{answer}}}", gold, judge=judge)
    assert (score.correct, score.status) == (False, "ok")


def test_the_last_of_several_boxes_counts(judge: Judge) -> None:
    text = r"First \boxed{21} and then \boxed{49}. Final: \boxed{7 \cdot 10}"
    assert score_math(text, "70", judge=judge).correct


def test_what_takes_too_long_is_ended_and_the_next_one_judged() -> None:
    judge = Judge(workers=1, seconds=1.0)
    try:
        assert score_math(TOWER, "5", judge=judge).status == "timeout"
        assert score_math(r"\boxed{\sqrt{4}}", "2", judge=judge).correct
    finally:
        judge.close()


def test_threads_share_a_judge(judge: Judge) -> None:
    found: list[bool] = []
    threads = [
        threading.Thread(
            target=lambda n=n: found.append(
                score_math(rf"\boxed{{\sqrt{{{n * n}}}}}", str(n), judge=judge).correct
            )
        )
        for n in range(2, 8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 6


def test_a_worker_that_dies_gives_no_verdict_and_is_replaced(judge: Judge) -> None:
    judge.equal("x", "x")
    for worker in judge._live:
        worker._process.kill()
    assert score_math(r"\boxed{2x}", "x+x", judge=judge).status == "error"
    assert score_math(r"\boxed{2x}", "x+x", judge=judge).correct


def test_closing_ends_a_comparison_that_runs() -> None:
    judge = Judge(workers=1, seconds=60.0)
    found: list[str] = []
    thread = threading.Thread(
        target=lambda: found.append(score_math(TOWER, "5", judge=judge).status)
    )
    thread.start()
    while not judge._live:
        time.sleep(0.01)
    judge.close()
    thread.join()
    assert found == ["error"]
