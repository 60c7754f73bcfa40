"""What a response puts forward as its answer. Knows nothing of right and wrong."""

import re

END_OF_THINKING = "</think>"
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")


def after_thinking(response: str, thinking_ended: bool | None = None) -> str | None:
    """What follows the last `</think>`; None where thinking never ended.

    `thinking_ended` is False where it is known that the model was still thinking (a chat template
    may open `<think>` in the prompt, unseen in the response); None judges by the text.
    """
    _, marker, rest = response.rpartition(END_OF_THINKING)
    if marker:
        return rest
    unfinished = "<think>" in response if thinking_ended is None else not thinking_ended
    return None if unfinished else response


def last_box(text: str) -> str | None:
    r"""Content of the last `\boxed{}` with matched braces; None if there is none or it is open."""
    found = last_box_at(text)
    return None if found is None else found[1]


def last_box_at(text: str) -> tuple[int, str] | None:
    r"""Where the content of the last `\boxed{}` starts, and the content."""
    openings = list(_BOX.finditer(text))
    if not openings:
        return None
    start = openings[-1].end()
    depth, index = 1, start
    while index < len(text):
        match text[index]:
            case "\\":
                index += 1  # whatever follows is escaped: \{ is no brace
            case "{":
                depth += 1
            case "}":
                depth -= 1
                if depth == 0:
                    return start, text[start:index]
        index += 1
    return None
