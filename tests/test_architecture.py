"""Rules of the code base, checked on the syntax trees. Every check is also shown a planted violation."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = sorted((ROOT / "metarl").rglob("*.py")) + sorted((ROOT / "envs").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# A module imports from its own row or from rows above it. One that is not listed stands in the last row, at the edge.
LAYERS = (
    {"trees", "returns", "stats", "errors", "checks"},
    {"types", "compilation", "packing", "lifting", "dynamics"},
    {
        "distributions",
        "policies",
        "losses",
        "baselines",
        "action_baseline",
        "advantages",
        "rules",
        "objectives",
        "transitions",
        "learned_signals",
    },
    {"rollouts", "learner"},
    {"exploration"},
    {"optimizers", "training", "evaluation", "diagnostics", "memory"},
    {"checkpoints", "metrics", "sb3", "testing"},
)
LONE = LAYERS[0]  # these import nothing of ours at all
HEAVY = ("scipy", "matplotlib", "jinja2", "stable_baselines3", "tensorboard", "tyro", "pydantic")


def name_of(path: Path) -> str:
    """``metarl/rules/sgd.py`` is ``rules.sgd``; a package's own file is the package, metarl's is empty."""
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer(module: str) -> int:
    """Row of a module of metarl, with everything below ``rules`` in the row of rules."""
    first = module.split(".")[0]
    return next((row for row, names in enumerate(LAYERS) if first in names), len(LAYERS) - 1)


def imported(source: str, package: str) -> Iterator[str]:
    """Absolute dotted names of all imports, also those inside functions; ``package`` resolves relative ones."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            # `from metarl import stats` names a module, `from metarl.stats import iqm` does not.
            yield from (f"{stem}.{alias.name}" for alias in node.names) if stem in {"metarl", "envs"} else (stem,)


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).parent.parts)


def wrong_directions(module: str, source: str, package: str = "metarl") -> list[str]:
    """Imports of metarl that point the wrong way from ``module``."""
    found = []
    for name in imported(source, package):
        root, _, target = name.partition(".")
        if root == "envs":
            found.append(f"{module} imports {name}")
        elif root == "metarl" and module and (module in LONE or not target or layer(target) > layer(module)):
            found.append(f"{module} imports {name or 'metarl'}")
    return found


def foreign_to_envs(source: str, package: str = "envs") -> list[str]:
    """What a module of envs imports besides itself (relatively), torch, gymnasium, numpy and the standard library."""
    allowed = {"torch", "gymnasium", "numpy"} | sys.stdlib_module_names
    absolute = [
        node.module or ""
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "envs"
    ]
    roots = {name: name.split(".")[0] for name in imported(source, package)}
    plain = [a.name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import) for a in n.names]
    absolute += [name for name in plain if name.split(".")[0] == "envs"]
    return absolute + [name for name, root in roots.items() if root != "envs" and root not in allowed]


DRAWS = {"rand", "randn", "randint", "randperm", "multinomial", "bernoulli", "normal", "poisson", "rand_like",
         "randn_like", "randint_like"}  # fmt: skip
METHODS = {"multinomial", "bernoulli", "bernoulli_", "normal_", "uniform_", "exponential_", "random_", "log_normal_",
           "cauchy_", "geometric_", "orthogonal_", "trunc_normal_", "xavier_uniform_", "xavier_normal_",
           "kaiming_uniform_", "kaiming_normal_"}  # fmt: skip
SEEDING = {"manual_seed", "seed", "set_rng_state", "fork_rng", "manual_seed_all"}

GENERATORS = {"default_rng", "Generator", "SeedSequence", "PCG64", "RandomState"}


def global_randomness(source: str) -> list[str]:
    """Calls that draw from, or seed, random state that the caller did not hand in."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            from_torch = isinstance(node, ast.ImportFrom) and node.module in {"torch", "numpy.random", "torch.random"}
            drawn = [alias.name for alias in node.names if alias.name in DRAWS | SEEDING] if from_torch else []
            found += [f"line {node.lineno}: import of {name}" for name in [*names, *drawn] if name == "random" or drawn]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        root, last = name.split(".")[0], name.split(".")[-1]
        handed_in = any(word.arg == "generator" for word in node.keywords)
        if root == "torch" and "(" not in name and last in SEEDING:  # torch.Generator().manual_seed is its own
            found.append(f"line {node.lineno}: {name}")
        elif name.startswith(("np.random.", "numpy.random.")):
            made = last in GENERATORS and (node.args or node.keywords)
            found += [] if made else [f"line {node.lineno}: {name}"]
        elif root == "torch" and name.count(".") == 1 and last in DRAWS and not handed_in:
            found.append(f"line {node.lineno}: {name} without generator")
        elif "." in name and last in METHODS and not handed_in:
            found.append(f"line {node.lineno}: {name} without generator")
    return found


def undocumented(source: str) -> list[str]:
    """Public functions and classes of a module, and the module itself, that have no docstring."""
    tree = ast.parse(source)
    public = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) and not node.name.startswith("_")
    ]
    missing = [node.name for node in public if ast.get_docstring(node) is None]
    return missing + ([] if ast.get_docstring(tree) else ["the module"])


def too_large(source: str, lines: int = 45, arguments: int = 8) -> list[str]:
    """Functions whose body (without its docstring) or whose list of arguments (without self) is too long."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        length = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
        given = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        count = len([name for name in given if name not in {"self", "cls"}])
        if length > lines or count > arguments:
            found.append(f"{node.name}: {length} lines, {count} arguments")
    return found


def without_assertion(source: str) -> list[str]:
    """Test functions that assert nothing."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test"):
            continue
        calls = [ast.unparse(call.func) for call in ast.walk(node) if isinstance(call, ast.Call)]
        helped = any(
            name in {"pytest.raises", "pytest.warns"} or name.split(".")[-1].startswith(("assert", "check_"))
            for name in calls
        )
        if not helped and not any(isinstance(inner, ast.Assert) for inner in ast.walk(node)):
            found.append(node.name)
    return found


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """Nodes that are left when those that point at nothing left are taken away again and again."""
    left = {name: set(targets) - {name} for name, targets in edges.items()}
    while free := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in free}
    return sorted(left)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [p for p in LIBRARY if p.is_relative_to(ROOT / "metarl")], ids=relative)
def test_metarl_imports_in_one_direction_and_never_envs(path: Path) -> None:
    assert wrong_directions(name_of(path), path.read_text(), package_of(path)) == []


def test_every_layer_is_made_of_modules() -> None:
    modules = {name_of(path).split(".")[0] for path in LIBRARY if path.is_relative_to(ROOT / "metarl")}
    assert [name for names in LAYERS for name in sorted(names) if name not in modules] == []


def test_modules_of_metarl_import_each_other_without_a_cycle() -> None:
    paths = {name_of(path): path for path in LIBRARY if path.is_relative_to(ROOT / "metarl") and name_of(path)}
    edges = {
        name: {n.removeprefix("metarl.") for n in imported(path.read_text(), package_of(path)) if n != "metarl"}
        for name, path in paths.items()
    }
    assert cycle(edges) == []


@pytest.mark.parametrize("path", [p for p in LIBRARY if p.is_relative_to(ROOT / "envs")], ids=relative)
def test_envs_stands_alone(path: Path) -> None:
    assert foreign_to_envs(path.read_text(), package_of(path)) == []


@pytest.mark.parametrize("check", [global_randomness, undocumented, too_large])
@pytest.mark.parametrize("path", LIBRARY, ids=relative)
def test_the_library_keeps_the_rules(path: Path, check: Callable[[str], list[str]]) -> None:
    assert check(path.read_text()) == []


@pytest.mark.parametrize("path", TESTS, ids=relative)
def test_every_test_asserts_something(path: Path) -> None:
    assert without_assertion(path.read_text()) == []


@pytest.mark.parametrize(
    ("module", "snippet"),
    [
        ("trees", "from metarl.types import Params"),
        ("stats", "import metarl.trees"),
        ("types", "from metarl.policies import Policy"),
        ("losses", "def f():\n    from metarl.learner import Learner"),
        ("rules.sgd", "from metarl.training import explore"),
        ("rules.sgd", "from ..training import explore"),
        ("learner", "from metarl import evaluation"),
        ("learner", "import metarl"),
        ("training", "from metarl.new_module import anything"),
        ("testing", "from envs.cartpole import CartPole"),
        ("", "import envs"),
    ],
)
def test_a_wrong_direction_is_seen(module: str, snippet: str) -> None:
    assert wrong_directions(module, snippet, "metarl.rules" if "." in module else "metarl")


def test_a_right_direction_is_not_reported() -> None:
    assert not wrong_directions("learner", "from metarl.trees import tree_add\nfrom .rules import sgd\nimport torch")
    assert not wrong_directions("rules.sgd", "from .base import UpdateRule\nfrom ..types import Params", "metarl.rules")
    assert not wrong_directions("", "from metarl.training import explore")


def test_a_cycle_is_seen() -> None:
    assert cycle({"a": {"b"}, "b": {"c", "torch"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
    assert cycle({"a": {"b"}, "b": {"torch"}}) == []


PLANTED: list[tuple[Callable[[str], list[str]], str]] = [
    (foreign_to_envs, "import scipy"),
    (foreign_to_envs, "from metarl.types import Task"),
    (foreign_to_envs, "from envs.ranges import Range"),
    (foreign_to_envs, "import envs.ranges"),
    (foreign_to_envs, "from stable_baselines3 import PPO"),
    (global_randomness, "torch.manual_seed(0)"),
    (global_randomness, "torch.cuda.manual_seed_all(0)"),
    (global_randomness, "np.random.rand(3)"),
    (global_randomness, "np.random.default_rng()"),
    (global_randomness, "np.random.RandomState()"),
    (global_randomness, "import random"),
    (global_randomness, "from random import choice"),
    (global_randomness, "from torch import randn"),
    *[(global_randomness, f"torch.{name}(3)") for name in sorted(DRAWS)],
    *[(global_randomness, f"x.{name}()") for name in sorted(METHODS)],
    (undocumented, '"""m"""\ndef f(): pass'),
    (undocumented, '"""m"""\nclass C: pass'),
    (undocumented, 'def f():\n    """d"""'),
    (too_large, "def f():\n" + "    pass\n" * 46),
    (too_large, "def f(a, b, c, d, e, f, g, *, h, i): pass"),
    (without_assertion, "def test_x():\n    run()"),
    (without_assertion, "class TestX:\n    def test_x(self):\n        run()"),
]


@pytest.mark.parametrize(("check", "snippet"), PLANTED)
def test_a_planted_violation_is_seen(check: Callable[[str], list[str]], snippet: str) -> None:
    assert check(snippet)


@pytest.mark.parametrize(
    ("check", "snippet"),
    [
        (foreign_to_envs, "import math\nimport torch\nfrom .ranges import Range\nfrom gymnasium.spaces import Box"),
        (global_randomness, "torch.rand(3, generator=g)\nnp.random.default_rng(seed)\nf.sample(3, generator=g)"),
        (
            global_randomness,
            "torch.Generator().manual_seed(0)",
        ),
        (undocumented, '"""m"""\ndef _f(): pass'),
        (too_large, 'def f(self, a, b, c, d, e, f, g, h):\n    """d\n\n\n"""\n' + "    pass\n" * 45),
        (without_assertion, "def test_x():\n    check_rule(r)\ndef test_y():\n    with pytest.raises(E): f()"),
        (without_assertion, "def test_z():\n    torch.testing.assert_close(a, b)"),
    ],
)
def test_what_is_allowed_is_not_reported(check: Callable[[str], list[str]], snippet: str) -> None:
    assert not check(snippet)


PROBE = """
import json, os, random, sys, threading
import gymnasium, numpy, torch
def state():
    legacy = numpy.random.get_state()
    return [torch.get_rng_state().tolist(), repr(random.getstate()), legacy[1].tolist(), dict(os.environ),
            threading.active_count(), torch.get_num_threads(), str(torch.get_default_dtype()), os.getcwd()]
before = state()
{imports}
heavy = [name for name in {heavy} if name in sys.modules]
print(json.dumps([heavy, before == state(), {file}]))
"""


def probe(imports: str, file: str = "None") -> list[object]:
    """Run imports in a fresh interpreter: heavy modules loaded, whether global state is unchanged, an expression."""
    code = PROBE.format(imports=imports, heavy=HEAVY, file=file)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    result: list[object] = json.loads(done.stdout)
    return result


def test_importing_is_light_leaves_no_trace_and_finds_our_envs() -> None:
    expected = str(ROOT / "envs" / "__init__.py")
    assert probe("import metarl, envs", "os.path.abspath(envs.__file__)") == [[], True, expected]


@pytest.mark.parametrize(
    "trace",
    ["torch.rand(1)", "random.random()", "numpy.random.rand()", "os.environ['X'] = '1'", "torch.set_num_threads(3)",
     "threading.Thread(target=threading.Event().wait, daemon=True).start()"],
)  # fmt: skip
def test_a_trace_is_seen(trace: str) -> None:
    assert probe(trace)[1] is False


def test_a_heavy_import_is_seen() -> None:
    assert probe("import scipy")[0] == ["scipy"]


def test_envs_here_is_ours() -> None:
    import envs

    assert Path(envs.__file__ or "").resolve() == ROOT / "envs" / "__init__.py"
