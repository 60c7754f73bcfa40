"""One step on the device: ids, model, logits, draws. Nothing in it waits for the device."""

from collections.abc import Callable
from typing import Any

import torch

from engine.batch import Batch
from engine.context import forward_context, predict_importance
from engine.sampler import LastTokens, SeenTokens, draw

LogitsOf = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(ids, positions, packed tokens that are drawn from), int64 each -> logits of the latter."""


class Forward:
    """Runs batches; keeps what rows drew last and which tokens they hold."""

    def __init__(
        self,
        logits_of: LogitsOf,
        rows: int,
        vocabulary: int,
        device: torch.device,
        impl: str | None,
    ) -> None:
        self.logits_of = logits_of
        self._impl = impl
        self._last = LastTokens(rows, device)
        self.seen = SeenTokens(rows, vocabulary, device)

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens [draws] int64, -1 where logits are not finite, and raw logits [draws, vocabulary].

        Where nobody is drawn from both are empty.
        """
        context, draws = batch.context, batch.draws
        context.ids = ids = self._last.fill_in(batch.ids, batch.rows)
        with forward_context(context):
            logits = self.logits_of(ids, context.positions.long(), draws.tokens)
        scores = logits
        if batch.penalties is not None:
            self.seen.add(batch.rows, ids)
            scores = self.seen.penalised(logits, draws.rows, batch.penalties)
        tokens = draw(scores, draws, self._impl)
        self._last.keep(draws, tokens)
        return tokens, logits


def stock_logits(model: Any) -> LogitsOf:
    """The model as transformers runs it."""
    model.base_model.register_forward_hook(
        lambda module, inputs, output: predict_importance(output.last_hidden_state[0])
    )

    def logits_of(ids: torch.Tensor, positions: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        outputs = model(
            input_ids=ids[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=drawn,
        )
        logits: torch.Tensor = outputs.logits[0]
        return logits

    return logits_of
