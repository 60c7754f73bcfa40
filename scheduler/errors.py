"""What a caller can do wrong.

SchedulerError
├── InvalidRequest   a field is out of range or can never fit      → INVALID_ARGUMENT
├── PolicyUnavailable  this server lacks what the policy needs     → FAILED_PRECONDITION
├── QuotaExceeded    more than the tenant may have                 → RESOURCE_EXHAUSTED
└── QueueFull        too many requests wait already                → RESOURCE_EXHAUSTED
"""


class SchedulerError(Exception):
    """A request was refused; nothing of it is kept."""


class InvalidRequest(SchedulerError):
    """A field of the request cannot be honoured, now or later."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field  # path in the contract, for example "kv_budget.max_tokens"
        self.message = message


class PolicyUnavailable(SchedulerError):
    """The policy exists, and what it needs does not."""

    def __init__(self, policy: str, reason: str) -> None:
        super().__init__(f"policy {policy} cannot be used on this server: {reason}")


class QueueFull(SchedulerError):
    """The queue holds as many requests as it may."""

    def __init__(self, waiting: int, retry_seconds: float) -> None:
        super().__init__(
            f"{waiting} outputs wait already, too many to add more; retry in {retry_seconds:.1f} s"
        )
        self.retry_seconds = retry_seconds


class QuotaExceeded(SchedulerError):
    """The request's tenant has, or would have, as much as it may."""

    def __init__(self, quota: str, message: str, retry_seconds: float = 0.0) -> None:
        super().__init__(f"{quota}: {message}")
        self.quota = quota
        self.message = message
        self.retry_seconds = retry_seconds  # 0: waiting does not help
