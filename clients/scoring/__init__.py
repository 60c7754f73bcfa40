"""Whether a response is right. `score_math` and `score_choice` are the doors.

answer.py       finds what the model put forward: the last box after thinking
text.py         compares as text and as exact numbers; cheap, decides most answers
judge.py        asks math-verify about the rest, in worker processes with a deadline
mathematics.py  free answers; choice.py: letters
"""

from clients.scoring.answer import last_box
from clients.scoring.choice import score_choice
from clients.scoring.mathematics import score_math
from clients.scoring.verdict import Score, Status

__all__ = ["Score", "Status", "last_box", "score_choice", "score_math"]
