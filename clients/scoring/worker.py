"""A scoring worker: math-verify behind lines of JSON, without its own clocks.

    python -m clients.scoring.worker SECONDS

Each line of input is `[answer, gold]`, each line of output true, false or null (could not be
compared); the first line of output says that it is ready. A comparison that takes more than
SECONDS of processor time (not of the clock: the machine may be busy) ends the process: by a
signal's default action, which a loop in C cannot put off, and which needs no parent to be alive.
"""

import json
import logging
import os
import resource
import signal
import sys

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

MEMORY_BYTES = 4 << 30  # of address space; a tower of powers would take all there is
EXTRACTION = (LatexExtractionConfig(), ExprExtractionConfig())


def equal(answer: str, gold: str) -> bool | None:
    """Whether math-verify finds `answer` equal to `gold`; both are LaTeX without `$`.

    They are wrapped in `$`, without which equations such as `3x+4y+14=0` are read as 0. What it
    cannot read is not equal; None where there was not enough memory.
    """
    try:
        left, right = _parse(gold), _parse(answer)
        # in this order: it is not symmetric. Relations may answer sets: x > 1 is (1, oo)
        return verify(
            left, right, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True
        )
    except MemoryError:
        return None
    except Exception:  # noqa: BLE001 - a parser of what models write may raise anything
        return False


def main(seconds: float) -> None:
    """Answers until the input ends."""
    os.nice(10)  # the model that is being measured may share the machine
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable()
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches whoever asked
    equal(r"\sqrt{4}", "2")  # the first comparison imports much
    print("true", flush=True)
    for line in sys.stdin:
        answer, gold = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        verdict = equal(answer, gold)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(verdict), flush=True)


def _parse(text: str) -> list[object]:
    found: list[object] = parse(
        f"${text}$", list(EXTRACTION), parsing_timeout=None, raise_on_error=True
    )
    return found


if __name__ == "__main__":
    main(float(sys.argv[1]))
