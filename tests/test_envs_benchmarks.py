"""Ranges, families and benchmarks: which tasks a split may contain, and which errors are raised."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import (
    BENCHMARKS,
    CartPole,
    Choice,
    Coarse,
    Fixed,
    LogRange,
    LogUnion,
    Navigation,
    Range,
    TaskBenchmark,
    Union,
    navigation_fixed,
    navigation_holes,
    navigation_maml,
    task_ids,
)
from envs.adapters import GymnasiumFamily
from envs.cells import bucket, indices, salt

DISTRIBUTIONS = [
    Fixed(0.3),
    Range(-0.1, 0.3),
    LogRange(0.01, 10.0),
    Choice((3.0, -1.0, 0.1)),
    Union(((-1.0, -0.5), (0.5, 2.0))),
    LogUnion(((0.1, 0.2), (1.0, 4.0))),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def kind(value) -> str:
    return type(value).__name__


# --- distributions


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=kind)
def test_draws_are_float32_repeatable_and_contained(distribution):
    values = distribution.sample(20_000, seeded())
    assert values.dtype == torch.float32
    assert torch.equal(values, distribution.sample(20_000, seeded()))
    assert bool(distribution.contains(values).all())
    low, high = distribution.bounds
    outside = torch.tensor([low - 0.01, high + 0.01, float("nan"), float("inf")])
    assert not bool(distribution.contains(outside).any())


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=kind)
def test_cells_are_in_range_and_the_same_in_both_precisions(distribution):
    values = distribution.sample(5000, seeded())
    cells = distribution.cell(values, 64)
    assert cells.dtype == torch.int64
    assert 0 <= int(cells.min()) and int(cells.max()) < 64
    assert torch.equal(cells, distribution.cell(values.double(), 64))
    assert torch.equal(cells.reshape(50, 100), distribution.cell(values.reshape(50, 100), 64))


def test_range_cells_by_hand():
    assert Range(0, 4).cell(torch.tensor([0.0, 0.99, 1.0, 2.5, 4.0]), 4).tolist() == [0, 0, 1, 2, 3]
    assert LogRange(1, 16).cell(torch.tensor([1.0, 1.9, 2.0, 7.9, 16.0]), 4).tolist() == [0, 0, 1, 2, 3]
    assert Choice((5.0, -1.0)).cell(torch.tensor([-1.0, 5.0]), 4).tolist() == [1, 0]


def test_union_weights_by_length_and_log_scale_by_ratio():
    union = Union(((0.0, 1.0), (2.0, 5.0))).sample(40_000, seeded())
    assert (union <= 1).float().mean().item() == pytest.approx(0.25, abs=0.01)
    logs = LogUnion(((0.1, 0.2), (1.0, 4.0))).sample(40_000, seeded())
    assert (logs <= 0.2).float().mean().item() == pytest.approx(1 / 3, abs=0.01)
    log = LogRange(0.01, 100.0).sample(40_000, seeded())
    assert (log < 1).float().mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Range(2, 1), "low <= high"),
        (lambda: Range(0, float("inf")), "finite"),
        (lambda: Range(0, 1e300), "finite"),  # infinite once stored
        (lambda: Fixed(float("nan")), "finite"),
        (lambda: LogRange(0, 1), "low > 0"),
        (lambda: Choice(()), "one or more values"),
        (lambda: Choice((1.0, 1.0)), "distinct"),
        (lambda: Union(()), "at least one interval"),
        (lambda: Union(((0, 2), (1, 3))), "ascending disjoint"),
        (lambda: Union(((1, 1), (2, 2))), r"Union: expected intervals with low < high, got \(1, 1\).* use Choice"),
        (lambda: LogUnion(((1, 2), (3, 3))), r"LogUnion: .* got \(3, 3\).* use Choice"),
    ],
)
def test_wrong_distributions_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Range("0", 1), r"Range: expected intervals \(low, high\) of numbers, got \(\('0', 1\),\)"),
        (lambda: LogRange(0.1, None), "LogRange: expected intervals"),
        (lambda: Fixed([1.0]), "Fixed: expected intervals"),
        (lambda: Union((0.0, 1.0)), r"Union: expected intervals .* got \(0.0, 1.0\); give pairs"),
        (lambda: LogUnion(1.0), "LogUnion: expected intervals"),
        (lambda: Union(((0.0, 1.0, 2.0),)), "Union: expected intervals"),
        (lambda: Choice(1.0), r"Choice: expected a tuple of values, got 1.0; write Choice\(\(1.0, 2.0\)\)"),
        (lambda: Choice("12"), "Choice: expected a tuple of values, got '12'"),
        (lambda: Choice(("1",)), "Choice: expected intervals"),
    ],
)
def test_distributions_of_anything_but_numbers_are_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make()


# --- families


def test_sample_gives_every_constant_and_fixed_ones_too():
    task = CartPole(gravity=5.0, half_length=Range(1, 2)).sample(50, generator=seeded())
    assert list(task) == list(CartPole.parameters)
    assert task["gravity"].tolist() == [5.0] * 50
    assert task["half_length"].unique().numel() > 10
    assert all(values.shape == (50,) for values in task.values())


@given(name=st.sampled_from(sorted(CartPole.parameters)), value=st.sampled_from([float("nan"), float("inf"), -1e9]))
@settings(max_examples=40, deadline=None)
def test_impossible_constants_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        CartPole(**{name: value})
    task = CartPole().sample(3, generator=seeded())
    task[name][1] = value
    with pytest.raises(ValueError, match=name):
        CartPole().validate(task)
    assert not bool(CartPole().contains(task)[1])


@given(value=st.floats(-1.0, 1.0, exclude_min=True, exclude_max=True))
@settings(max_examples=30, deadline=None)
def test_polarity_is_a_sign(value):
    with pytest.raises(ValueError, match="polarity.*one of"):
        CartPole(polarity=value)


@pytest.mark.parametrize("values", [torch.tensor([9, 12]), torch.tensor([True, False])], ids=["whole", "bool"])
def test_constants_that_would_round_the_states_are_refused(values):
    family = CartPole()
    task = family.sample(2, generator=torch.Generator().manual_seed(0)) | {"gravity": values}
    with pytest.raises(TypeError, match=f"gravity: expected floating-point numbers, got {values.dtype}; give values"):
        family.validate(task)
    family.validate(task | {"gravity": values.double() + 1})
    with pytest.raises(TypeError, match=r"gravity: expected a tensor, got 9.8; task\(gravity=...\) makes a task"):
        family.validate(task | {"gravity": 9.8})


def test_unknown_and_missing_names_are_refused():
    with pytest.raises(ValueError, match="no constant 'half_lenght'; did you mean 'half_length'"):
        CartPole(half_lenght=1.0)
    task = CartPole().sample(1, generator=seeded())
    del task["gravity"]
    for refuse in (CartPole().validate, CartPole().contains):
        with pytest.raises(ValueError, match="'gravity' is missing"):
            refuse(task)
    with pytest.raises(TypeError, match="gravity: expected a number or a distribution"):
        CartPole(gravity="9.8")
    CartPole().validate(CartPole().sample(4, generator=seeded()))


@pytest.mark.parametrize(("horizon", "error"), [(0, ValueError), (-3, ValueError), (1.5, TypeError), (True, TypeError)])
def test_horizon_is_a_positive_integer(horizon, error):
    with pytest.raises(error, match="horizon"):
        CartPole(horizon)
    assert CartPole(np.int64(3)).horizon == 3


def test_contains_is_about_the_declared_ranges():
    family = CartPole(gravity=Range(5, 10))
    task = family.sample(4, generator=seeded())
    task["gravity"] = torch.tensor([4.999, 5.0, 10.0, 10.001])
    assert family.contains(task).tolist() == [False, True, True, False]


# --- benchmarks


@pytest.fixture(scope="module", params=sorted(BENCHMARKS))
def benchmark_under_test(request) -> TaskBenchmark:
    return BENCHMARKS[request.param]()


def test_no_split_holds_a_training_task(benchmark_under_test):
    bench = benchmark_under_test
    assert bench.splits[:2] == ("validation", "test")
    drawn = {split: bench.sample(split, 3000, generator=seeded(1)) for split in ("train", *bench.splits)}
    assert bool(bench.is_training(drawn["train"]).all())
    train_ids = set(task_ids(drawn["train"]))
    for split in bench.splits:
        assert not bool(bench.is_training(drawn[split]).any())
        assert not train_ids & set(task_ids(drawn[split]))  # equal seeds, yet no shared task
        assert len(next(iter(drawn[split].values()))) == 3000
        bench.family.validate(drawn[split])


def test_validation_and_test_are_disjoint_and_from_the_training_range(benchmark_under_test):
    bench = benchmark_under_test
    validation, test = (bench.sample(split, 2000, generator=seeded(2)) for split in ("validation", "test"))
    assert not set(task_ids(validation)) & set(task_ids(test))
    assert bool(bench.family.contains(validation).all()) and bool(bench.family.contains(test).all())
    for split in set(bench.splits) & {"interpolation", "default"}:
        assert not bool((bench.heldout[split].contains(test) | bench.heldout[split].contains(validation)).any())


def test_whole_cells_are_held_out(benchmark_under_test):
    # A neighbour within the cell belongs to the same split: membership is not a matter of the last bit.
    bench = benchmark_under_test
    if not _varied(bench):
        pytest.skip("cells of single values")
    task = bench.sample("test", 4000, generator=seeded(3))
    nudged = {name: torch.nextafter(values, torch.full_like(values, torch.inf)) for name, values in task.items()}
    nudged = {name: nudged[name] if name == min(_varied(bench)) else task[name] for name in task}
    moved = bench.is_training(nudged)  # only where the nudge crosses into the next cell
    assert moved.float().mean() < 0.01


def _varied(bench: TaskBenchmark) -> list[str]:
    return [name for name, d in bench.family.ranges.items() if not isinstance(d, Fixed | Choice)]


def test_sampling_is_deterministic_and_answers_on_doubles_too(benchmark_under_test):
    bench = benchmark_under_test
    for split in ("train", *bench.splits):
        first, second = (bench.sample(split, 50, generator=seeded(4)) for _ in range(2))
        assert task_ids(first) == task_ids(second)
        doubles = {name: values.double() for name, values in first.items()}
        assert torch.equal(bench.is_training(first), bench.is_training(doubles))
    other = bench.sample("train", 50, generator=seeded(5))
    assert task_ids(other) != task_ids(bench.sample("train", 50, generator=seeded(4)))


def test_train_stays_uniform_and_the_hash_deals_evenly():
    bench = navigation_fixed()
    goal = bench.sample("train", 40_000, generator=seeded(6))
    for name in ("goal_x", "goal_y"):
        counts = torch.histc(goal[name], 10, -0.5, 0.5)
        assert counts.min() > 3700 and counts.max() < 4300
    corr = torch.corrcoef(torch.stack((goal["goal_x"], goal["goal_y"])))[0, 1]
    assert abs(corr.item()) < 0.02
    raw = bench.train.sample(40_000, generator=seeded(7))
    assert bench.is_training(raw).float().mean().item() == pytest.approx(6 / 8, abs=0.01)
    grid = torch.cartesian_prod(torch.arange(256), torch.arange(256))
    shares = torch.bincount(bucket(grid, salt("any")), minlength=8) / len(grid)
    assert shares.tolist() == pytest.approx([1 / 8] * 8, abs=0.005)


def splitmix(cells: list[int], start: int) -> int:
    """The published generator on unbounded Python integers."""
    mask, state = 2**64 - 1, start
    for cell in cells:
        z = (state + cell + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        state = z ^ (z >> 31)
    return state % 8


def test_hash_equals_integers_of_python():
    cells = torch.randint(1024, (200, 5), generator=seeded())
    assert bucket(cells, salt("name")).tolist() == [splitmix(row, salt("name")) for row in cells.tolist()]


def test_is_training_needs_all_constants_and_knows_its_range():
    bench = navigation_holes()
    task = bench.sample("train", 5, generator=seeded())
    with pytest.raises(ValueError, match="'goal_y' is missing"):
        bench.is_training({name: values for name, values in task.items() if name != "goal_y"})
    with pytest.raises(ValueError, match="no constant 'mass'"):
        bench.is_training({**task, "mass": task["goal_x"]})
    assert not bool(bench.is_training({**task, "goal_x": task["goal_x"] + 2}).any())
    assert not bool(bench.is_training({**task, "start_x": task["start_x"] + 0.1}).any())
    assert not bool(bench.is_training({**task, "goal_x": task["goal_x"] * torch.nan}).any())
    corner = {**task, "goal_x": torch.full((5,), 0.3), "goal_y": torch.full((5,), 0.1)}  # on the hole's edge
    assert not bool(bench.is_training(corner).any())


def test_extrapolation_lies_outside_in_every_varied_constant():
    bench = BENCHMARKS["cartpole-packer"]()
    task = bench.sample("extrapolation", 2000, generator=seeded())
    for name in ("force_magnitude", "half_length", "pole_mass"):
        low, high = bench.family.ranges[name].bounds
        assert bool(((task[name] <= low) | (task[name] >= high)).all())
    assert bench.sample("default", 3, generator=seeded())["half_length"].tolist() == [0.5] * 3


def test_a_shared_end_point_belongs_to_training_alone():
    above = float(np.nextafter(np.float32(10), np.float32(11)))
    train, beyond = CartPole(gravity=Range(5, 10)), CartPole(gravity=Range(10, above))  # two float32 values
    assert beyond.sample(100, generator=seeded())["gravity"].unique().tolist() == [10.0, above]
    for name in "abc":
        bench = TaskBenchmark(name, train, {"beyond": beyond})
        task = bench.sample("beyond", 100, generator=seeded())
        end_is_training = bool(
            bench.is_training({**train.sample(1, generator=seeded()), "gravity": torch.tensor([10.0])})
        )
        assert bool((task["gravity"] == 10).any()) is not end_is_training
        assert not bool(bench.is_training(task).any())


def test_unknown_split_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no split 'tset'; did you mean 'test'\? known are train, validation, test"):
        navigation_fixed().sample("tset", 1, generator=seeded())


@pytest.mark.parametrize(
    ("heldout", "message"),
    [
        ({"beyond": Navigation(goal_x=Range(0.4, 0.6))}, "'beyond' partly overlaps the training range"),
        ({"beyond": Navigation(goal_x=Union(((0.2, 0.4), (0.7, 0.8))))}, "partly overlaps the training range"),
        ({"test": Navigation(goal_x=2.0)}, "'test' is reserved"),
        ({"beyond": Navigation(50, goal_x=2.0)}, "in ranges only, got horizon 50 instead of 100$"),
        ({"beyond": Navigation(reward="squared", goal_x=2.0)}, "in ranges only"),
        ({"beyond": CartPole()}, "in ranges only"),
        ({"hole": Navigation()}, "leaves tasks for 'train'"),
    ],
)
def test_overlapping_or_foreign_splits_are_refused(heldout, message):
    with pytest.raises(ValueError, match=message) as caught:
        TaskBenchmark("mine", Navigation(), heldout)
    assert "\n" not in str(caught.value)


def test_splits_that_are_no_families_or_have_other_constants_are_refused():
    with pytest.raises(
        TypeError, match="split 'beyond': expected a family like train with other .*; give a Navigation, or"
    ):
        TaskBenchmark("mine", Navigation(), {"beyond": {"goal_x": Range(2.0, 3.0)}})
    train = GymnasiumFamily("Pendulum-v1", {"g": Range(8.0, 10.0), "m": Range(0.5, 1.5)})
    beyond = GymnasiumFamily("Pendulum-v1", {"g": Range(11.0, 12.0)})
    with pytest.raises(ValueError, match="split 'beyond': expected the constants of train, g, m, got g; give const"):
        TaskBenchmark("mine", train, {"beyond": beyond})


def test_a_family_of_another_make_cannot_be_split():
    with pytest.raises(TypeError, match="mine: expected an envs.Family, whose ranges can be split, got dict; write"):
        TaskBenchmark("mine", {})


def test_an_unlucky_deal_of_few_tasks_is_told_and_another_name_helps():
    few = CartPole(gravity=Choice(tuple(float(g) for g in range(1, 13))))
    outcomes = {}
    index = indices(few, few.sample(12, generator=seeded()) | {"gravity": torch.arange(1.0, 13.0)}, 1024)
    for name in "abcdefghijklmnop":
        missing = {0, 1} - set(bucket(index, salt(name)).tolist())
        try:
            TaskBenchmark(name, few)
            outcomes[name] = not missing
        except ValueError as error:
            assert missing and "\n" not in str(error)
            assert "got 12 distinct cells" in str(error) and "try another name" in str(error)
            outcomes[name] = False
    assert set(outcomes.values()) == {False, True}
    with pytest.raises(
        ValueError, match="got 1 distinct cells, none of which remain; 3 splits need at least 3 cells; vary"
    ):
        TaskBenchmark("one", CartPole(gravity=Coarse(Range(5, 15))))
    with pytest.raises(ValueError, match="none of which remain; vary a continuous constant, or shrink the holes"):
        TaskBenchmark("hole", Navigation(), {"hole": Navigation()})


def test_too_few_cells_are_refused():
    with pytest.raises(ValueError, match="at least 2 bins, got 0"):
        TaskBenchmark("none", Navigation(), bins=0)
    with pytest.raises(ValueError, match="got 2 distinct cells"):
        TaskBenchmark("signs", CartPole(polarity=Choice((-1.0, 1.0))))
    with pytest.raises(ValueError, match="got 1 distinct cells"):
        TaskBenchmark("one", CartPole())
    many = TaskBenchmark("many", CartPole(gravity=Choice(tuple(float(g) for g in range(1, 61)))))
    held = many.sample("test", 200, generator=seeded())["gravity"].unique()
    assert 0 < len(held) < 30


# --- fingerprints


def test_fingerprint_changes_with_every_field():
    hole = {"hole": Navigation(goal_x=Range(0.1, 0.2))}
    variants = [
        TaskBenchmark("a", Navigation()),
        TaskBenchmark("b", Navigation()),
        TaskBenchmark("a", Navigation(99)),
        TaskBenchmark("a", Navigation(reward="squared")),
        TaskBenchmark("a", Navigation(action="raw")),
        TaskBenchmark("a", Navigation(box=None)),
        TaskBenchmark("a", Navigation(goal_x=Range(-0.5, 0.6))),
        TaskBenchmark("a", Navigation(goal_x=Union(((-0.5, 0.5),)))),
        TaskBenchmark("a", Navigation(start_x=0.1)),
        TaskBenchmark("a", Navigation(), hole),
        TaskBenchmark("a", Navigation(), {"gap": hole["hole"]}),
        TaskBenchmark("a", Navigation(), bins=512),
    ]
    prints = [bench.fingerprint() for bench in variants]
    assert len(set(prints)) == len(prints)
    assert prints[0] == TaskBenchmark("a", Navigation()).fingerprint()
    assert all(json.loads(json.dumps(bench.describe())) for bench in variants)


@pytest.mark.parametrize(
    ("numpy", "python"),
    [
        (lambda: CartPole(gravity=Choice(tuple(np.arange(5, 16)))), lambda: CartPole(gravity=Choice((*range(5, 16),)))),
        (lambda: CartPole(gravity=Range(np.float32(5), np.int64(15))), lambda: CartPole(gravity=Range(5.0, 15))),
        (
            lambda: CartPole(gravity=Union(((np.float64(5), np.float32(8)), (9, np.int8(12))))),
            lambda: CartPole(gravity=Union(((5.0, 8.0), (9, 12)))),
        ),
        (
            lambda: CartPole(gravity=Coarse(LogRange(np.float32(5), 15), np.int64(64)), cart_mass=np.float32(2)),
            lambda: CartPole(gravity=Coarse(LogRange(5.0, 15), 64), cart_mass=2.0),
        ),
        (
            lambda: CartPole(gravity=Range(5, 15), pole_mass=np.int64(1)),
            lambda: CartPole(gravity=Range(5, 15), pole_mass=1),
        ),
    ],
)
def test_numbers_of_numpy_are_python_numbers(numpy, python):
    assert json.dumps(numpy().describe()) == json.dumps(python().describe())


def test_lists_of_numpys_numbers_have_the_fingerprint_of_pythons():
    def listed(number):
        row = {"goal_x": (number(0.25),), "goal_y": (number(0.5),), "start_x": (number(0),), "start_y": (number(0),)}
        return TaskBenchmark("lists", Navigation(), listed={"few": row})

    assert listed(np.float32).fingerprint() == listed(float).fingerprint()


def test_fingerprints_and_membership_are_equal_in_another_process():
    program = (
        "import torch; from envs import BENCHMARKS, task_ids\n"
        "for name, make in BENCHMARKS.items():\n"
        "    tasks = make().sample('test', 5, generator=torch.Generator().manual_seed(0))\n"
        "    print(name, make().fingerprint(), *task_ids(tasks))"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    for line in done.stdout.splitlines():
        name, fingerprint, *ids = line.split()
        assert fingerprint == BENCHMARKS[name]().fingerprint()
        assert ids == task_ids(BENCHMARKS[name]().sample("test", 5, generator=seeded(0)))
    assert len(done.stdout.splitlines()) == len(BENCHMARKS)


def test_task_ids_follow_the_values():
    task = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([2.0, 3.0])}
    ids = task_ids(task)
    assert len(set(ids)) == 2
    assert task_ids({"b": task["b"].double(), "a": task["a"]}) == ids  # order, precision
    assert task_ids({**task, "a": torch.tensor([-0.0, 1.0])}) == ids  # minus zero is zero
    assert task_ids({**task, "a": torch.tensor([0.0, 1.0000001])})[1] != ids[1]
    assert task_ids({"a": task["a"], "c": task["b"]}) != ids


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_membership_is_equal_on_the_gpu(benchmark_under_test):
    bench = benchmark_under_test
    task = bench.train.sample(50_000, generator=seeded())
    there = {name: values.cuda() for name, values in task.items()}
    assert torch.equal(bench.is_training(task), bench.is_training(there).cpu())


def test_a_published_list_is_a_split_that_training_keeps_out_of():
    bench = navigation_maml()
    references = bench.family.references(bench.sample("published", 40, generator=seeded()))
    # figures of the published goals: who stands still, and who walks straight
    assert references["floor"].mean().item() == pytest.approx(-40.08, abs=0.005)
    assert references["ceiling"].mean().item() == pytest.approx(-0.544, abs=0.0005)
    one, two = (set(task_ids(bench.sample("published", 40, generator=seeded(seed)))) for seed in (0, 1))
    assert one == two and len(one) == 40
    more = task_ids(bench.sample("published", 100, generator=seeded()))
    assert len(more) == 100 and {more.count(name) for name in set(more)} == {2, 3}
    listed = bench.sample("published", 40, generator=seeded())
    assert not bool(bench.is_training(listed).any())
    plain = dataclasses.replace(bench, listed={})
    assert bool(plain.is_training(listed).any())  # it is the list that keeps training out
    assert plain.fingerprint() != bench.fingerprint()


def test_lists_of_no_tasks_of_the_family_are_refused():
    goal = {"goal_x": (0.1,), "goal_y": (0.1,), "start_x": (0.0,), "start_y": (0.0,)}
    with pytest.raises(ValueError, match="'test' is taken"):
        TaskBenchmark("lists", Navigation(), listed={"test": goal})
    with pytest.raises(ValueError, match="goal_y"):
        TaskBenchmark("lists", Navigation(), listed={"few": {"goal_x": (0.1,)}})
    for wrong, came in (({"goal_x": (0.1, 0.2)}, "'goal_x': 2"), ({name: () for name in goal}, "'goal_x': 0")):
        with pytest.raises(ValueError, match=f"one or more values for every constant .*'few'.* got .*{came}") as caught:
            TaskBenchmark("lists", Navigation(), listed={"few": {**goal, **wrong}})
        assert "\n" not in str(caught.value)
    bench = TaskBenchmark("lists", Navigation(), listed={"few": goal})
    with pytest.raises(ValueError, match="tasks: expected at least 1, got 0"):
        bench.sample("few", 0, generator=seeded())


def test_benchmarks_call_themselves_what_they_are_called():
    named = {name: make().name for name, make in BENCHMARKS.items()}
    shown = {name: name.replace("-dense", "-distance") for name in BENCHMARKS}  # a reward's own name
    assert named == shown and len(set(named.values())) == len(named)
    assert BENCHMARKS["bandit-5"](observation="feedback").name == "bandit-5-feedback"
    assert BENCHMARKS["navigation-fixed"](action="raw").name == "navigation-fixed-raw"
