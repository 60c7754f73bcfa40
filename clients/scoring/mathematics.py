"""Free answers: numbers, expressions, sets, intervals, words."""

from clients.scoring.answer import after_thinking, last_box
from clients.scoring.judge import Judge, NoVerdict, default_judge
from clients.scoring.text import same_text, tidy
from clients.scoring.verdict import Score

LONGEST = 2000  # characters that are worth comparing as mathematics


def score_math(
    response: str,
    gold: str,
    truncated: bool = False,
    thinking_ended: bool | None = None,
    judge: Judge | None = None,
) -> Score:
    r"""Judges `response` by its last box after thinking. May take seconds: not for event loops.

    Args:
        response: what the model wrote.
        gold: the reference answer, with or without a box.
        truncated: it was cut off by a length limit.
        thinking_ended: False where it is known that the model was still thinking (a chat template
            may open `<think>` in the prompt, unseen in the response); None judges by the text.
        judge: who compares what plain text cannot; this process's own by default.
    """
    answer = after_thinking(response, thinking_ended)
    extracted = None if answer is None else last_box(answer)
    if not extracted or not extracted.strip():
        return Score(False, None, "truncated" if truncated else "no_answer")
    boxed = last_box(gold)
    reference = gold if boxed is None else boxed
    verdict = same_text(extracted, reference)
    if verdict is None and len(extracted) <= LONGEST:
        try:
            verdict = (judge or default_judge()).equal(tidy(extracted), tidy(reference))
        except TimeoutError:
            return Score(False, extracted, "timeout")
        except NoVerdict:
            return Score(False, extracted, "error")
    return Score(bool(verdict), extracted, "ok")
