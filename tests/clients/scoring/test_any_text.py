"""Whatever a model writes, scoring says something sensible of it."""

from hypothesis import given
from hypothesis import strategies as st

from clients.scoring import last_box, score_choice, score_math
from clients.scoring.judge import Judge
from clients.scoring.text import same_text


class Never(Judge):
    """Finds nothing equal, without a process."""

    def equal(self, answer: str, gold: str) -> bool:
        return False


NEVER = Never()
PIECES = st.sampled_from(
    [r"\boxed{", r"\fbox {", "{", "}", r"\{", r"\}", "\\", "</think>", "<think>", "7", "A", " ",
     "\n", r"\text{", r"\frac", "$", ".", ",", "_", ":", "Answer: ", "is "]
)  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=30).map("".join)
BALANCED = st.recursive(
    st.text(alphabet="ab1+ ,", max_size=5),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: "{" + "}{".join(parts) + "}"),
)


@given(TEXTS, TEXTS, st.booleans(), st.none() | st.booleans())
def test_mathematics(response: str, gold: str, truncated: bool, ended: bool | None) -> None:
    score = score_math(response, gold, truncated, ended, judge=NEVER)
    assert not score.correct or score.status == "ok"
    assert (score.status == "ok") == (score.extracted is not None)
    assert score.status != "truncated" or truncated


@given(TEXTS, st.sampled_from("ABCD"), st.none() | st.booleans())
def test_choices(response: str, gold: str, ended: bool | None) -> None:
    score = score_choice(response, gold, ("7", "8", "9", "10"), thinking_ended=ended)
    assert score.status in ("ok", "no_answer")
    assert score.correct == (score.status == "ok" and score.extracted == gold)


@given(TEXTS.filter(lambda text: "boxed" not in text and "fbox" not in text), BALANCED, TEXTS)
def test_a_balanced_box_is_found_whole(before: str, content: str, after: str) -> None:
    if "box" not in after:
        assert last_box(rf"{before}\boxed{{{content}}}{after}") == content


@given(st.integers(-(10**12), 10**12))
def test_ways_to_write_a_number(number: int) -> None:
    plain, grouped = str(number), f"{number:,}"
    ways = [grouped, grouped.replace(",", "{,}"), grouped.replace(",", r"\,"), f"{plain}."]
    for written in (*ways, f"{plain}.00", rf"\text{{{plain}}}", f"${plain}$"):
        assert same_text(written, plain) is True
    assert same_text(str(number + 1), plain) is False
