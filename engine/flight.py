"""A launched step whose results are still on their way from the device."""

import numpy as np
import torch

from engine.sampler import TopLogprobsInFlight
from scheduler.plan import StepResult


class StepInFlight:
    """What a step drew; `result` waits for it and for nothing launched later."""

    def __init__(self, tokens: torch.Tensor, logits: torch.Tensor, logprobs: np.ndarray) -> None:
        """Starts the copy to the host.

        Args:
            tokens: [draws] int64, -1 where the logits were not finite.
            logits: [draws, vocabulary], raw.
            logprobs: [draws], alternatives each draw asks for; negative: it asks for nothing.
        """
        self._logprobs = None
        if (logprobs >= 0).any():
            self._logprobs = TopLogprobsInFlight(logits, logprobs, tokens)
        self._tokens = tokens.to("cpu", non_blocking=True)  # pinned, if it comes from a GPU
        self._copied = None
        if tokens.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()

    def result(self) -> StepResult:
        if self._copied is not None:
            self._copied.synchronize()
        tokens = [None if token < 0 else token for token in self._tokens.tolist()]
        if self._logprobs is None:
            return StepResult(tokens)
        return StepResult(tokens, self._logprobs.result(tokens))
