"""The model "sluice" of lm-evaluation-harness: generative tasks, many requests at once."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from tqdm import tqdm

from clients.async_client import AsyncClient
from clients.blocking import Client
from clients.completion import Completion
from clients.errors import HarnessError, SluiceError
from clients.harness.settings import Arguments, Conversation, make_request
from clients.settings import Request

log = logging.getLogger(__name__)

NO_PROMPT_LOGPROBS = (
    "this task scores given text (output_type multiple_choice or loglikelihood), and the service "
    "returns log-probabilities of generated tokens only; choose a task or variant with output_type "
    "generate_until"
)


@register_model("sluice")
class SluiceLM(LM):
    """Answers of a Sluice server. A request that fails ends the run; no answer is made up.

    With --use_cache, answers that came before a failure are kept.
    """

    def __init__(
        self,
        batch_size: object = None,
        max_batch_size: object = None,
        device: object = None,
        **arguments: Any,
    ) -> None:
        """`arguments` are those of --model_args (clients.harness.settings.Arguments).

        The other three come with every run and mean nothing here: the server batches, and
        `concurrency` says how much it gets to batch.

        Raises:
            HarnessError: an argument is unknown or of the wrong kind.
        """
        super().__init__()
        self.arguments = Arguments.of(arguments)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """One answer per request, in their order.

        Raises:
            HarnessError: the service does not have what a task asks for, or a request failed.
        """
        generations, asked = [], []
        for number, instance in enumerate(requests):
            generation = self._generation(instance)
            generations.append(generation)
            asked.append(make_request(instance.args[0], generation, self.arguments, number))
        texts: list[str] = [""] * len(requests)
        truncated = 0
        with tqdm(total=len(requests), desc="sluice", disable=disable_tqdm) as bar:

            def add(number: int, completion: Completion) -> None:
                nonlocal truncated
                instance, generation = requests[number], generations[number]
                texts[number] = postprocess_generated_text(
                    completion.text, generation["until"], self.arguments.think_end_token
                )
                truncated += completion.output.finish_reason == "length"
                self.cache_hook.add_partial("generate_until", instance.args, texts[number])
                bar.update()

            asyncio.run(_complete(self.arguments, asked, add))
        if truncated:
            log.warning("%d of %d answers were cut at max_gen_toks", truncated, len(requests))
        return texts

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise HarnessError(NO_PROMPT_LOGPROBS)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise HarnessError(NO_PROMPT_LOGPROBS)

    # --- chat: the messages travel as they are, and the server renders them

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The messages, for the server to render.

        Raises:
            HarnessError: the task begins the answer itself; the server cannot go on from there.
        """
        if not add_generation_prompt:
            raise HarnessError(
                "the task begins the answer itself (gen_prefix), which a chat cannot do here; "
                "run it without --apply_chat_template"
            )
        return Conversation.of(chat_history)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """What results say of the template.

        Raises:
            HarnessError: the model has none, or one was named.
        """
        if not chat_template:
            return ""
        if isinstance(chat_template, str):
            raise HarnessError(
                f"got --apply_chat_template {chat_template}; the server has one template, do not "
                "name it"
            )
        with Client(self.arguments.server) as client:
            info = client.model_info(self.arguments.model)
        if not info.has_chat_template:
            raise HarnessError(
                f"{info.name} has no chat template; run without --apply_chat_template"
            )
        return f"rendered by the server of {info.name}"

    @property
    def tokenizer_name(self) -> str:
        """Part of lm_eval's key for cached prompts; ours are messages, whatever the tokenizer."""
        return "sluice-messages"

    def _generation(self, instance: Instance) -> dict[str, Any]:
        if len(instance.args) != 2 or not isinstance(instance.args[0], str):
            raise HarnessError(
                f"task {instance.task_name} sends more than text; this service decodes text"
            )
        found: dict[str, Any] = normalize_gen_kwargs(instance.args[1], self.arguments.max_tokens)
        return found


async def _complete(
    arguments: Arguments, asked: Sequence[Request], add: Callable[[int, Completion], None]
) -> None:
    """Calls `add(number, completion)` as answers come; at most `concurrency` are under way."""
    waiting = iter(enumerate(asked))

    async def work(client: AsyncClient) -> None:
        for number, request in waiting:
            try:
                completion = await client.complete(request, timeout=arguments.timeout)
            except SluiceError as error:
                which = f"request {number + 1} of {len(asked)}"
                raise HarnessError(f"{which} to {arguments.server} failed: {error}") from error
            add(number, completion)

    async with AsyncClient(arguments.server) as client:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(arguments.concurrency, len(asked))):
                    group.create_task(work(client))
        except ExceptionGroup as errors:  # the others were cancelled
            raise errors.exceptions[0] from None
