"""One output's tokens on their way into messages, without a server."""

import pytest

from engine.messages import Finished, FinishReason, Usage
from protos.sluice.v1 import sluice_pb2 as pb
from service.fake_text import FakeText
from service.output import Output, make_outputs
from service.stream import Part


class ThinkingText(FakeText):
    """The byte tokenizer with a `</think>`: as token 256, or only in the text."""

    thinking = True

    def __init__(self, end_id: int | None, start_id: int | None = None) -> None:
        self.think_end_id = end_id
        self.think_start_id = start_id


def output(*stops: str, text: FakeText | None = None, prompt: list[int] | None = None) -> Output:
    return make_outputs(1, prompt or [1], stops, text or FakeText())[0]


def part(ids: list[int] | bytes, end: FinishReason | None = None) -> Part:
    finished = None if end is None else Finished(1, 0, end, Usage(3, 99))
    return Part(0, list(ids), [], finished)


def flat(events: list[pb.GenerateEvent]) -> tuple[list[int], str]:
    tokens = [event.tokens for event in events if event.HasField("tokens")]
    assert len(tokens) <= 1
    return [id for t in tokens for id in t.ids], "".join(t.text for t in tokens)


def test_half_a_character_waits_for_the_other_half() -> None:
    made = output()
    first, second = "é".encode()
    assert flat(made.events(part([first]))) == ([first], "")
    assert flat(made.events(part([second]))) == ([second], "é")


def test_the_end_flushes_half_a_character() -> None:
    events = output().events(part("aé".encode()[:-1], FinishReason.LENGTH))
    assert flat(events) == (list("aé".encode()[:-1]), "a\ufffd")
    assert events[-1].finished.reason == pb.FINISH_REASON_LENGTH


def test_a_stop_string_across_messages_truncates_text_ids_and_usage() -> None:
    made = output("STOP")
    assert flat(made.events(part(b"abS"))) == (list(b"abS"), "ab")
    assert flat(made.events(part(b"TOPxyz"))) == (list(b"TOP"), "")
    assert made.stop == "STOP"
    (event,) = made.events(part(b"more", FinishReason.LENGTH))
    assert event.finished.reason == pb.FINISH_REASON_STOP
    assert event.finished.stop == "STOP"
    assert event.finished.usage.completion_tokens == len("abSTOP")


def test_what_only_began_a_stop_string_comes_with_the_end() -> None:
    made = output("STOP")
    made.events(part(b"ab"))
    events = made.events(part(b"ST", FinishReason.LENGTH))
    assert flat(events) == (list(b"ST"), "ST")
    assert not events[-1].finished.HasField("stop")


def test_text_may_come_after_the_last_token() -> None:
    made = output("STOP")
    assert flat(made.events(part(b"ST"))) == (list(b"ST"), "")
    assert flat(made.events(part([], FinishReason.STOP))) == ([], "ST")


def test_a_stop_string_and_the_end_in_one_part() -> None:
    events = output("b").events(part(b"abc", FinishReason.LENGTH))
    assert flat(events) == (list(b"ab"), "a")
    assert events[-1].finished.reason == pb.FINISH_REASON_STOP
    assert events[-1].finished.usage.completion_tokens == 2


def test_logprobs_are_cut_with_their_ids() -> None:
    made = output("b")
    logprobs = [(-0.5, [(97, -0.5), (98, -1.0)]), (-0.25, []), (-9.0, [])]
    (event,) = made.events(Part(0, list(b"abc"), logprobs, None))
    assert [entry.logprob for entry in event.tokens.logprobs] == [-0.5, -0.25]
    assert [top.id for top in event.tokens.logprobs[0].top] == [97, 98]


@pytest.mark.parametrize(
    ("text", "prompt", "ids", "reasoning"),
    [
        (FakeText(), [1], b"ab</think>c", 0),
        (ThinkingText(None), [1], b"ab</think>c", len("ab</think>")),
        (ThinkingText(None), [1], b"abc", 3),
        (ThinkingText(256), [1], [97, 256, 98, 256], 2),
        (ThinkingText(256), [1], [97, 98], 2),
        (ThinkingText(256, 255), [255, 1, 256], [97, 98], 0),
        (ThinkingText(256, 255), [255, 256, 255], [97, 98], 2),
        (ThinkingText(256, 255), [255, 1], [97, 256, 98], 2),
    ],
)
@pytest.mark.parametrize("size", [1, 4, 100])
def test_reasoning_tokens_end_with_the_end_of_thinking(
    text: FakeText, prompt: list[int], ids: bytes, reasoning: int, size: int
) -> None:
    made = output(text=text, prompt=prompt)
    for start in range(0, len(ids), size):
        made.events(part(ids[start : start + size]))
    (event,) = made.events(part([], FinishReason.STOP))
    assert event.finished.usage.reasoning_tokens == reasoning
    assert event.finished.usage.completion_tokens == len(ids)
