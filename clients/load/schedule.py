"""When the requests of a rate are scheduled, in seconds from the start of the run."""

import numpy as np
from numpy.typing import NDArray

from clients.load.arrivals import Rate

Times = NDArray[np.float64]


def times(rate: Rate, warm_up: float, seconds: float, seed: int) -> Times:
    """The schedule of a warm-up of `warm_up` seconds and a window of `seconds`, ascending.

    Warm-up and window each get exactly rate * seconds arrivals (rounded), so that the offered load
    does not depend on the seed: intervals are drawn from the gamma distribution and scaled so that
    the arrivals fill their part (`vllm bench serve` scales the whole run). For Poisson this is the
    process itself, given the number of arrivals. All times are absolute: lateness does not add up.
    A constant rate has its arrivals at 0, 1/rate, 2/rate, ...
    """
    if rate.burstiness is None:
        count = int(np.ceil(round((warm_up + seconds) * rate.per_second, 6)))
        return np.arange(count) / rate.per_second
    random = np.random.default_rng(seed)
    parts = [(0.0, warm_up), (warm_up, seconds)]
    return np.concatenate([_part(rate, *part, rate.burstiness, random) for part in parts])


def _part(
    rate: Rate, start: float, seconds: float, burstiness: float, random: np.random.Generator
) -> Times:
    count = round(rate.per_second * seconds)
    ends = np.cumsum(random.gamma(burstiness, size=count + 1))
    found = start + seconds * ends[:-1] / ends[-1]
    # the last gap may be too small for a float, and the end belongs to what comes after
    return np.minimum(found, np.nextafter(start + seconds, start))
