"""Gittins indices against published tables, and the exact optimum against all policies."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from envs.gittins import bayes_value, gittins_index, gittins_table


def index(won: float, lost: float, pulls: int, discount: float = 1.0) -> float:
    return gittins_index(torch.tensor(won), torch.tensor(lost), pulls, discount).item()


# Gittins, Glazebrook & Weber (2011), "Multi-armed bandit allocation indices", tables of Bernoulli arms.
@pytest.mark.parametrize(
    ("won", "lost", "discount", "published"),
    [
        (1, 1, 0.9, 0.7029),
        (2, 1, 0.9, 0.8001),
        (1, 2, 0.9, 0.5001),
        (2, 2, 0.9, 0.6346),
        (3, 3, 0.9, 0.6010),
        (10, 2, 0.9, 0.8695),
        (1, 1, 0.99, 0.8699),
        (2, 1, 0.99, 0.9102),
        (1, 2, 0.99, 0.7005),
    ],
)
def test_discounted_indices_equal_the_published_ones(won: int, lost: int, discount: float, published: float) -> None:
    pulls = math.ceil(math.log(1e-5) / math.log(discount))
    assert index(won, lost, pulls, discount) == pytest.approx(published, abs=5.1e-5)


def test_indices_of_the_last_pulls_by_hand() -> None:
    assert index(3, 2, 1) == pytest.approx(0.6, abs=1e-6)  # nothing to learn for: the mean
    # Two pulls from Beta(1, 1): 1/2 - l + 1/2 (2/3 - l) = 0 where only a pay-out makes one go on.
    assert index(1, 1, 2) == pytest.approx(5 / 9, abs=1e-6)
    assert index(1, 1, 2, 0.5) == pytest.approx((1 / 2 + 1 / 6) / (1 + 1 / 4), abs=1e-6)


def test_index_keeps_shape_and_broadcasts() -> None:
    won, lost = torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 2.0, 3.0])
    table = gittins_index(won, lost, 10)
    assert table.shape == (2, 3) and table.dtype == torch.float64
    assert table[1, 2].item() == index(2, 3, 10)
    assert bool((table.diff(dim=0) > 0).all()) and bool((table.diff(dim=1) < 0).all())


def test_table_holds_the_indices() -> None:
    table = gittins_table(30)
    assert table.shape == (31, 30, 30)
    for left, made, won in [(30, 0, 0), (29, 1, 0), (29, 1, 1), (15, 15, 7), (10, 12, 9), (1, 29, 3), (1, 0, 0)]:
        assert table[left, made, won].item() == pytest.approx(index(1 + won, 1 + made - won, left), abs=1e-3)
    made = torch.arange(30)
    possible = (made <= made[:, None]) & (made[:, None] + torch.arange(31).reshape(-1, 1, 1) <= 30)
    possible[0] = False
    assert torch.equal(table.isfinite(), possible)


def test_table_is_too_high_by_as_much_as_it_says() -> None:
    table = gittins_table(100)
    for left, made in [(49, 50), (25, 59), (75, 20)]:
        won = torch.arange(made + 1, dtype=torch.float64)
        over = table[left, made, : made + 1] - gittins_index(1 + won, 1 + made - won, left)
        assert -1e-7 < float(over.min()) and float(over.max()) < 0.005


def moment(won: int, lost: int) -> float:
    """Mean of ``p^won (1 - p)^lost`` for uniform p."""
    return math.factorial(won) * math.factorial(lost) / math.factorial(won + lost + 1)


def value_by_enumeration(arms: int, pulls: int) -> float:
    """Best of all deterministic policies, a policy being an arm for every record of pay-outs."""
    records = [record for length in range(pulls) for record in itertools.product((0, 1), repeat=length)]
    best = 0.0
    for choices in itertools.product(range(arms), repeat=len(records)):
        policy = dict(zip(records, choices, strict=True))
        total = 0.0
        for outcome in itertools.product((0, 1), repeat=pulls):
            won, lost = [0] * arms, [0] * arms
            for time in range(pulls):
                arm = policy[outcome[:time]]
                won[arm], lost[arm] = won[arm] + outcome[time], lost[arm] + 1 - outcome[time]
            total += sum(outcome) * math.prod(moment(w, f) for w, f in zip(won, lost, strict=True))
        best = max(best, total)
    return best


@pytest.mark.parametrize(("arms", "pulls"), [(1, 3), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3)])
def test_bayes_value_is_that_of_the_best_of_all_policies(arms: int, pulls: int) -> None:
    assert bayes_value(arms, pulls) == pytest.approx(value_by_enumeration(arms, pulls), abs=1e-12)


def test_bayes_value_by_hand_and_its_order() -> None:
    assert bayes_value(2, 2) == pytest.approx(
        1 / 2 + 1 / 2 * 2 / 3 + 1 / 2 * 1 / 2
    )  # stay after a pay-out, else change
    assert bayes_value(1, 7) == pytest.approx(3.5)
    values = [bayes_value(arms, 10) for arms in (1, 2, 5, 10, 50)]
    assert values[:4] == sorted(values[:4]) and values[3] == values[4]  # no eleventh arm can be tried
    assert all(5 <= value < 10 * arms / (arms + 1) for value, arms in zip(values[1:], (2, 5, 10, 50), strict=True))


def test_bayes_value_bounds_what_was_published() -> None:
    # (n, k) = (10, 5): Gittins 6.6, UCB1 6.7, RL^2 6.7, SNAIL 6.6 +/- 0.1; (10, 10): 6.6, 6.7, 6.7, 6.7 +/- 0.1.
    assert bayes_value(5, 10) == pytest.approx(6.65999, abs=1e-5)
    assert bayes_value(10, 10) == pytest.approx(6.71395, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bayes_value(0, 3), ValueError, "arms: expected at least 1, got 0"),
        (lambda: bayes_value(2, 0), ValueError, "pulls: expected at least 1"),
        (lambda: bayes_value(2, 2.5), TypeError, "pulls: expected an integer"),
        (lambda: index(1, 1, 0), ValueError, "pulls: expected at least 1"),
        (lambda: index(1, 1, 5, 0.0), ValueError, "discount: expected a number within"),
        (lambda: index(1, 1, 5, 1.1), ValueError, "discount: expected a number within"),
        (lambda: gittins_table(True), TypeError, "pulls: expected an integer"),
        (lambda: gittins_table(3, 0), ValueError, "levels: expected at least 1"),
    ],
)
def test_wrong_arguments_are_refused_by_name(call, error, message) -> None:
    with pytest.raises(error, match=message):
        call()
