"""How a bare question is put to a model: the recipes of the harnesses, word for word.

Scores under different prompts are not comparable, so a run has one recipe and says which.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from types import MappingProxyType

from clients.errors import DataError
from clients.settings import Message
from clients.workloads.problem import Problem

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
DEFAULT = "deepseek"


@dataclass(frozen=True)
class Recipe:
    """Templates with `{question}`, and `{options}` where a choice is asked for."""

    source: str
    free: str
    choice: str | None = None  # None: it has no form for multiple choice
    label: str = "({letter}) {text}"  # of one option; each on a line of its own
    system: str | None = None
    stop: tuple[str, ...] = ()


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "deepseek": Recipe(
            "DeepSeek-R1's README; its choice form is ours, with a boxed letter",
            f"{{question}}\n{INSTRUCTION}",
            "{question}\n{options}\nPlease reason step by step, and put the letter of your final "
            "answer within \\boxed{}.",
        ),
        "qwen": Recipe(
            "Qwen2.5-Math, qwen25-math-cot: DeepSeek's sentence as system message",
            "{question}",
            "{question}\n{options}",
            system=INSTRUCTION,
        ),
        "lighteval": Recipe(
            "lighteval's AIME and, after OpenAI's simple-evals, GPQA",
            "Solve the following math problem efficiently and clearly.  The last line of your "
            "response should be of the following format: 'Therefore, the final answer is: "
            "$\\boxed{ANSWER}$. I hope it is correct' (without quotes) where ANSWER is just the "
            "final number or expression that solves the problem. Think step by step before "
            "answering.\n\n{question}",
            "Answer the following multiple choice question. The last line of your response should "
            "be of the following format: 'Answer: $LETTER' (without quotes) where LETTER is one of "
            "ABCD. Think step by step before answering.\n\n{question}\n\n{options}",
            label="{letter}) {text}",
        ),
        "lm_eval": Recipe(
            "lm-evaluation-harness: AIME, and GPQA cot_zeroshot",
            "Question: {question}\nAnswer:",
            "What is the correct answer to this question:{question}\nChoices:\n{options}\n"
            "Let's think step by step: ",
            stop=("Question:",),
        ),
        "evalscope": Recipe(
            "evalscope's AIME",
            "\nSolve the following math problem step by step. Put your answer inside "
            "\\boxed{}.\n\n{question}\n\nRemember to put your answer inside \\boxed{}.",
        ),
        "nemo": Recipe(
            "NeMo-Skills generic/math, and its boxed GPQA",
            "Solve the following math problem. Make sure to put the answer (and only answer) "
            "inside \\boxed{}.\n\n{question}",
            "Answer the following multiple choice question. The last line of your response should "
            "be in the following format: 'Answer: \\boxed{A/B/C/D}' (e.g. 'Answer: "
            "\\boxed{A}').\n\n{question}\n\n{options}",
            label="{letter}) {text}",
        ),
        "evalchemy": Recipe(
            "evalchemy's AIME24 and AMC23",
            "Problem: {question}\nMark your solution with \\boxed\nAnswer:",
        ),
        "r_kv": Recipe(
            "R-KV's run_math.py",
            "You are given a math problem.\n\nProblem: {question}\n\n You need to solve the "
            "problem step by step. First, you need to provide the chain-of-thought, then provide "
            "the final answer.\n\n Provide the final answer in the format: Final answer:  "
            "\\boxed{}",
        ),
        "none": Recipe("the question as it stands", "{question}", "{question}\n{options}"),
    }
)


def recipe(name: str) -> Recipe:
    """The recipe called `name`; DataError lists those there are."""
    if name not in RECIPES:
        raise DataError(f"unknown prompt {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]


def check(name: str, problem: Problem) -> None:
    """Raises DataError where the recipe has no form for such a problem."""
    if problem.bare and problem.options and recipe(name).choice is None:
        fitting = ", ".join(key for key, found in RECIPES.items() if found.choice is not None)
        raise DataError(
            f"the prompt {name!r} has no form for multiple choice, which {problem.task} is; "
            f"choose from {fitting}"
        )


def messages(problem: Problem, name: str) -> tuple[Message, ...]:
    """What is said to the model: an optional system message, and the question."""
    if not problem.bare:
        return (Message("user", problem.prompt),)
    found = recipe(name)
    template = found.choice if problem.options and found.choice is not None else found.free
    options = "\n".join(
        found.label.replace("{letter}", letter).replace("{text}", text)
        for letter, text in zip(ascii_uppercase, problem.options, strict=False)
    )
    before, _, after = template.partition("{question}")  # a question may hold braces of its own
    user = Message("user", before + problem.prompt + after.replace("{options}", options))
    return (user,) if found.system is None else (Message("system", found.system), user)
