"""Frames, drawn to text: they say what the server said, and fit."""

import io
import re
from datetime import datetime

import pytest
from rich.console import Console

from clients.top.frame import frame
from clients.top.watch import Watch
from protos.sluice.v1 import sluice_pb2 as pb
from tests.clients.top.builders import look, watch

LATER = {"generation_tokens_total": 1250, "tokens_evicted_total": {"r_kv": 590, "window": 0}}


def drawn(*watches: Watch, width: int = 80, height: int = 24, encoding: str = "utf-8") -> list[str]:
    """The lines of a frame."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(file=file, width=width, height=height, highlight=False)
    console.print(frame(watches, console, 1.0, height))
    file.flush()
    return raw.getvalue().decode(encoding).splitlines()


def crowded(classes: int) -> Watch:
    """A server with outputs of so many sizes of budget."""
    counts = [
        pb.BudgetClass(max_tokens=2**i, running=1, blocks=2, tokens_resident=10 * i)
        for i in range(4, 4 + classes)
    ]
    return watch(look(0.0), look(1.0, budget_classes=counts))


def test_everything_is_there_at_80_by_24() -> None:
    lines = drawn(watch(look(0.0), look(2.0, **LATER)))
    text = "\n".join(lines)
    for said in (
        "pocket at there:7700, up 0:01:42",
        "ScriptForCausalLM, float32 on cpu, reference kernels",
        "1 engine restarts",
        "12 of 64, waiting 3 of 4,096, preempted 2 (0/s)",
        "40 %",
        "used 40  ▓ promised 20  ▒ cached 10  ░ free 30  of 100, shared 5",
        "evicted   r_kv 45/s, window 0/s",
        "80 KV tokens above floors, pressed 7 (0/s)",
    ):
        assert said in text
    assert re.search(r"tokens/s +125 ", text)
    assert re.search(r"to 128 +8 +1 +30 +400 ", text)
    assert re.search(r"none +4 +2 +15 +200 ", text)
    assert re.search(r"first token +31 ms +0\.24 s|first token +31 ms +240 ms", text)
    assert re.search(r"between two +7\.1 ms +12 ms", text)
    assert re.search(r"request +2\.5 s +75 s", text)


@pytest.mark.parametrize("classes", [0, 1, 8, 30])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 30), (60, 24), (30, 24), (10, 24)])
def test_it_fits(classes: int, width: int, height: int) -> None:
    lines = drawn(crowded(classes), width=width, height=height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_classes_that_do_not_fit_are_summed() -> None:
    text = "\n".join(drawn(crowded(30)))
    shown = [int(n.replace(",", "")) for n in re.findall(r"^to ([\d,]+)", text, re.MULTILINE)]
    rest = re.search(r"^(\d+) others +(\d+) +0 +(\d+) ", text, re.MULTILINE)
    assert shown == [2**i for i in range(4, 4 + len(shown))]
    assert rest is not None
    assert [int(part) for part in rest.groups()] == [30 - len(shown)] * 2 + [2 * (30 - len(shown))]


def test_the_bar_is_as_long_as_the_pool() -> None:
    [bar] = [line for line in drawn(watch(look())) if line.startswith("KV pool")]
    cells = bar[bar.index("%") + 2 :]
    assert [cells.count(mark) for mark in "█▓▒░"] == pytest.approx([25, 12, 6, 19], abs=1)


def test_a_gone_server_says_since_when_and_why_and_keeps_its_last_numbers() -> None:
    found = watch(look(0.0), look(1.0))
    found.lose("UNAVAILABLE: nobody\x1b[2J there", datetime(2026, 1, 1, 12, 34, 56))
    text = "\n".join(drawn(found))
    assert "gone since 12:34:56: UNAVAILABLE: nobody [2J there" in text
    assert "12 of 64" in text
    assert re.search(r"tokens/s +- ", text)


def test_a_server_that_never_answered() -> None:
    found = Watch("there:1")
    found.lose("UNAVAILABLE: refused", datetime(2026, 1, 1, 12, 34, 56))
    text = "\n".join(drawn(found))
    assert text.startswith("there:1 ")
    assert "gone since 12:34:56: UNAVAILABLE: refused" in text


def test_a_server_that_does_not_know_of_classes_or_latency() -> None:
    nothing = pb.Latency()
    times = {"first_token": nothing, "inter_token": nothing, "request": nothing}
    text = "\n".join(drawn(watch(look(budget_classes=[], **times))))
    assert "not told" in text
    assert re.search(r"first token +- +-", text)


def test_an_idle_server_has_nobody() -> None:
    text = "\n".join(drawn(watch(look(budget_classes=[], running=0, waiting=0))))
    assert "nobody" in text


def test_terminals_without_unicode() -> None:
    text = "\n".join(drawn(watch(look(0.0), look(1.0)), encoding="ascii"))
    assert text.isascii()
    assert "# used 40  + promised 20  = cached 10  . free 30" in text


def test_several_servers_have_a_line_each() -> None:
    gone = Watch("c:3")
    gone.lose("refused", datetime(2026, 1, 1, 12, 34, 56))
    lines = drawn(
        watch(look(0.0), look(2.0, **LATER), target="a:1"), watch(look(), target="b:2"), gone
    )
    assert lines[0].startswith("3 servers ")
    assert re.match(r"a:1 +pocket +125 +12 +3 +40% +12 ms", lines[2])
    assert re.match(r"b:2 +pocket +- +12 +3 +40%", lines[3])
    assert re.match(r"c:3 +gone since 12:34:56", lines[4])
