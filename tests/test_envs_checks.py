"""Arguments of callers are checked in one place, and mistakes raise one-line errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from envs.checks import chosen, close_to, refuse_unknown, whole


@pytest.mark.parametrize("value", [1, 7, np.int64(7), np.uint8(200)])
def test_whole_numbers_pass_as_pythons_own(value: Any) -> None:
    found = whole("count", value)
    assert type(found) is int and found == value


@pytest.mark.parametrize(
    ("value", "low", "error", "message"),
    [
        (0, 1, ValueError, "count: expected at least 1, got 0; give a larger number"),
        (1, 2, ValueError, "count: expected at least 2, got 1; give a larger number"),
        (np.int64(-3), 0, ValueError, "count: expected at least 0, got -3; give a larger number"),
        (1.0, 1, TypeError, "count: expected an integer, got 1.0; give an int"),
        (True, 0, TypeError, "count: expected an integer, got True; give an int"),
        ("2", 1, TypeError, "count: expected an integer, got '2'; give an int"),
        (None, 1, TypeError, "count: expected an integer, got None; give an int"),
    ],
)
def test_other_numbers_do_not(value: Any, low: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        whole("count", value, low)
    assert str(caught.value) == message


def test_a_word_is_one_of_those_known() -> None:
    assert chosen("size", "small", {"small": 1, "large": 2}) == "small"
    for word in ("medium", None, ["small"]):
        wrong: Any = word
        with pytest.raises(ValueError) as caught:
            chosen("size", wrong, iter(("small", "large")))
        assert str(caught.value) == f"size: expected one of small, large, got {word!r}; choose one"


def test_what_an_owner_does_not_have_is_refused_with_the_nearest_name_if_one_is_near() -> None:
    refuse_unknown("Cart", "constant", (), iter(("mass", "length")))
    refuse_unknown("Cart", "constant", ("length", "mass"), iter(("mass", "length")))
    with pytest.raises(ValueError) as caught:
        refuse_unknown("Cart", "constant", ("mass", "lenght"), iter(("mass", "length")))
    assert str(caught.value) == "Cart has no constant 'lenght'; did you mean 'length'? known are mass, length"
    with pytest.raises(ValueError) as caught:
        refuse_unknown("Cart", "constant", ("zzz",), ["mass", "length"])
    assert str(caught.value) == "Cart has no constant 'zzz'; known are mass, length"
    assert close_to("zzz", ["mass"]) == ""
