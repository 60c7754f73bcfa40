"""Distributions of lengths."""

import numpy as np
import pytest

from clients.errors import LoadError
from clients.load.lengths import Length, parse_length


def drawn(text: str, count: int = 20_000) -> np.ndarray:
    length, random = parse_length(text), np.random.default_rng(1)
    return np.array([length.draw(random) for _ in range(count)])


def test_fixed() -> None:
    assert set(drawn("512", 5)) == {512}
    assert parse_length("512").most == 512


def test_uniform_reaches_both_ends() -> None:
    found = drawn("3:6")
    assert set(found) == {3, 4, 5, 6}
    assert abs((found == 6).mean() - 1 / 4) < 0.02
    assert parse_length("3:6").most == 6


@pytest.mark.parametrize("shape", ["normal", "lognormal"])
def test_mean_and_deviation_are_those_of_the_length(shape: str) -> None:
    found = drawn(f"{shape}:300,60")
    assert abs(found.mean() - 300) < 3
    assert abs(found.std() - 60) < 3
    assert parse_length(f"{shape}:300,60").most is None


def test_lognormal_is_skewed_and_normal_is_not() -> None:
    skewed, even = drawn("lognormal:3000,3000"), drawn("normal:3000,900")
    assert np.median(skewed) == pytest.approx(3000 / np.sqrt(2), rel=0.05)
    assert np.median(even) == pytest.approx(3000, rel=0.05)


def test_no_length_is_under_one_token() -> None:
    assert drawn("normal:2,5").min() == 1


def test_a_length_prints_as_it_is_given() -> None:
    for text in ["512", "128:1024", "lognormal:300,60", "normal:8,0"]:
        assert str(parse_length(text)) == text
        assert parse_length(text) == parse_length(str(parse_length(text)))
    assert parse_length(" 5 ") == Length("fixed", 5)


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "1.5", "many", "5:4", "0:4", "1:", ":4", "normal:", "normal:5", "normal:5,-1",
     "lognormal:0,1", "normal:nan,1", "normal:5,inf", "uniform:1,2", "1:2:3", "normal:1,2,3"],
)  # fmt: skip
def test_what_is_no_length_is_named(text: str) -> None:
    with pytest.raises(LoadError, match=r"got the length .*want 512, 128:1024, normal:MEAN,SD"):
        parse_length(text)
