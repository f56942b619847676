"""How fast are two of our workloads in JAX, written by hand for them alone? A yardstick, not a part of the library.

    python -m benchmarks.yardstick_jax w1 [--devices 2] [--inner-steps 1] [--epochs 1] [--check]
    python -m benchmarks.yardstick_jax w2 [--rows 1 64 1024 16384] [--devices 1 2]
    python -m benchmarks.yardstick_jax w1 --serve     # compiles; then runs and times an iteration per line "go"

W1 is one whole second-order Meta-SGD iteration on point navigation: K+1 rollouts, baselines, advantages, K inner
steps, the meta-gradient and Adam, compiled into one program. W2 is CartPole with random actions and with a policy,
stepped by equations written here (every row with its own constants) and by gymnax.

Needs `jax` and, for its half of W2, `gymnax`, but neither torch nor our packages, so that it can run in a separate
environment. Prints one JSON document; messages for people go to stderr. Two devices are two halves of the processor,
between which tasks or rows are divided. A single device may still use every core: pin it (`taskset -c 0`) to measure
one core.

What makes W1 fast (by default):

- The update goes through the tasks one after another, on two devices in blocks of rows that fit the second-level cache.
- Rows are flattened to one axis, since XLA makes a slow product of a contraction over two axes.
- The meta-gradient takes one Hessian-vector product per inner step, and the inner gradients of exploring are reused in
  the first epoch. For one inner step with v = dL_outer/dtheta' and inner gradient g: d/dtheta = v - H(alpha v),
  d/dalpha = -g v; for more steps the same, from the last step backwards.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

try:
    import jax
    import jax.numpy as jnp
    from jax import lax, random
    from jax.sharding import Mesh
    from jax.sharding import PartitionSpec as Spec
except ImportError as error:
    print(f"error: {error}; run the yardstick in an environment with jax (and gymnax)", file=sys.stderr)
    raise SystemExit(2) from error

Tree = Any
AXIS = "devices"  # axis of the mesh, along which tasks or rows are divided
LOG_SQRT_TWO_PI = 0.5 * math.log(2.0 * math.pi)
UNROLL = 2  # environment steps per iteration of a compiled loop, with our own equations


# ---------------------------------------------------------------- W1: one Meta-SGD iteration on navigation


@dataclass(frozen=True)
class Setting:
    tasks: int = 20
    episodes: int = 20
    horizon: int = 100
    width: int = 100
    inner_steps: int = 1
    epochs: int = 1  # outer steps on one trace
    mode: str = "mapped"  # the update's tasks: "mapped", one after another, or "batched"
    hvp: str = "closed"  # "closed": Hessian-vector products; "full": reverse mode through the inner gradient
    blocks: int = 1  # number of parts in which a task's rows are differentiated
    reuse: bool = True  # reuse exploring's inner gradients in the first epoch ("closed" only)
    devices: int = 1
    discount: float = 0.99
    rate: float = 0.1  # initial inner step size
    meta_rate: float = 1e-3


class Episodes(NamedTuple):
    observation: jax.Array  # [T, H, N, 2]
    action: jax.Array  # [T, H, N, 2]
    log_prob: jax.Array  # [T, H, N]
    reward: jax.Array  # [T, H, N]


class Batch(NamedTuple):
    observation: jax.Array  # [T, H*N, 2]
    action: jax.Array  # [T, H*N, 2]
    log_prob: jax.Array  # [T, H*N]
    advantage: jax.Array  # [T, H*N]


class Trace(NamedTuple):
    support: tuple[Batch, ...]  # K
    query: Batch
    gradients: tuple[Tree, ...] | None  # of the K inner steps, stacked over tasks


class State(NamedTuple):
    params: Tree  # (theta, alpha)
    first: Tree  # Adam's moments
    second: Tree
    count: jax.Array


def initial(setting: Setting) -> State:
    hidden = jax.nn.initializers.orthogonal(2**0.5)
    keys = random.split(random.key(0), 3)
    width = setting.width
    theta = {
        "w1": hidden(keys[0], (2, width)),
        "b1": jnp.zeros(width),
        "w2": hidden(keys[1], (width, width)),
        "b2": jnp.zeros(width),
        "w3": jax.nn.initializers.orthogonal(0.01)(keys[2], (width, 2)),
        "b3": jnp.zeros(2),
        "log_std": jnp.zeros(2),
    }
    params = (theta, jax.tree.map(lambda leaf: jnp.full_like(leaf, setting.rate), theta))
    zeros = jax.tree.map(jnp.zeros_like, params)
    return State(params, zeros, zeros, jnp.zeros((), jnp.int32))


def policy_mean(theta: Tree, observation: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(observation @ theta["w1"] + theta["b1"])
    hidden = jax.nn.relu(hidden @ theta["w2"] + theta["b2"])
    return hidden @ theta["w3"] + theta["b3"]


def log_prob(theta: Tree, batch: Batch) -> jax.Array:
    scaled = (batch.action - policy_mean(theta, batch.observation)) * jnp.exp(-theta["log_std"])
    return (-0.5 * scaled * scaled - theta["log_std"] - LOG_SQRT_TWO_PI).sum(-1)


def inner_loss(theta: Tree, batch: Batch) -> jax.Array:
    now = log_prob(theta, batch)
    return -(jnp.exp(now - lax.stop_gradient(now)) * batch.advantage).mean()


def outer_loss(theta: Tree, batch: Batch) -> jax.Array:
    return -(jnp.exp(log_prob(theta, batch) - batch.log_prob) * batch.advantage).mean()


def gradient(setting: Setting, loss: Callable[[Tree, Batch], jax.Array], theta: Tree, batch: Batch) -> Tree:
    """Return the gradient of one task's loss, as the mean over blocks of its rows."""
    blocks = setting.blocks
    if blocks == 1:
        return jax.grad(loss)(theta, batch)
    parts = jax.tree.map(lambda leaf: leaf.reshape(blocks, -1, *leaf.shape[1:]), batch)
    return mean_of(lax.map(lambda part: jax.grad(loss)(theta, part), parts))


def mean_of(tree: Tree) -> Tree:
    return jax.tree.map(lambda leaf: leaf.mean(0), tree)


def descend(theta: Tree, alpha: Tree, slope: Tree) -> Tree:
    return jax.tree.map(lambda p, a, g: p - a * g, theta, alpha, slope)


def over_tasks(setting: Setting, function: Callable[[Tree], Tree], stacked: Tree) -> Tree:
    return lax.map(function, stacked) if setting.mode == "mapped" else jax.vmap(function)(stacked)


def rollout(setting: Setting, theta: Tree, goal: jax.Array, key: jax.Array) -> Episodes:
    """Roll out whole episodes on every task; ``theta`` is shared, or stacked over tasks."""
    stacked = theta["log_std"].ndim == 2
    mean = jax.vmap(policy_mean) if stacked else policy_mean
    log_std = theta["log_std"][:, None] if stacked else theta["log_std"]
    std = jnp.exp(log_std)
    noise = random.normal(key, (setting.horizon, len(goal), setting.episodes, 2))

    def step(position: jax.Array, noise_now: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        action = mean(theta, position) + std * noise_now
        moved = position + 0.1 * jnp.clip(action, -1.0, 1.0)
        offset = moved - goal[:, None]
        return moved, (position, action, -jnp.sqrt((offset * offset).sum(-1)))

    _, (observation, action, reward) = lax.scan(step, jnp.zeros_like(noise[0]), noise, unroll=UNROLL)
    sampled = (-0.5 * noise * noise - log_std - LOG_SQRT_TWO_PI).sum(-1)
    return Episodes(*(leaf.swapaxes(0, 1) for leaf in (observation, action, sampled, reward)))


def estimate(setting: Setting, episodes: Episodes) -> Batch:
    """Estimate advantages with a linear baseline (GAE at lambda 1: return minus value); flatten rows to one axis."""
    advantage = jax.vmap(functools.partial(advantages, setting))(episodes.observation, episodes.reward)
    leaves = (episodes.observation, episodes.action, episodes.log_prob, advantage)
    return Batch(*(leaf.reshape(leaf.shape[0], -1, *leaf.shape[3:]) for leaf in leaves))


def advantages(setting: Setting, observation: jax.Array, reward: jax.Array) -> jax.Array:
    """Return the normalised advantages ``[H, N]`` of one task."""
    steps = jnp.arange(setting.horizon)
    lag = steps[None] - steps[:, None]
    powers = jnp.where(lag >= 0, setting.discount ** jnp.maximum(lag, 0).astype(jnp.float32), 0.0)
    returns = powers @ reward
    t = jnp.broadcast_to((steps / 100.0)[:, None, None], (*reward.shape, 1))
    columns = [observation, observation**2, t, t**2, t**3, jnp.ones_like(t)]
    features = jnp.concatenate(columns, -1).reshape(reward.size, -1)
    gram = features.T @ features
    ridge = 1e-5 * jnp.diagonal(gram).mean() * jnp.eye(len(gram))
    weight = jax.scipy.linalg.solve(gram + ridge, features.T @ returns.ravel(), assume_a="pos")
    centred = returns - (features @ weight).reshape(reward.shape)
    centred = centred - centred.mean()
    return centred / (centred.std() + 1e-8)


def explore(setting: Setting, params: Tree, key: jax.Array) -> tuple[Trace, jax.Array]:
    """Return a trace of new tasks, and the mean returns before, between and after the inner steps."""
    theta, alpha = params
    goal_key, *keys = random.split(key, setting.inner_steps + 2)
    goal = random.uniform(goal_key, (setting.tasks // setting.devices, 2), minval=-0.5, maxval=0.5)
    adapted, batches, gradients, scores = theta, [], [], []
    for step, step_key in enumerate(keys):
        episodes = rollout(setting, adapted, goal, step_key)
        batches.append(estimate(setting, episodes))
        scores.append(episodes.reward.sum(1).mean())
        if step < setting.inner_steps:
            gradients.append(inner_gradients(setting, adapted, batches[-1]))
            adapted = descend_tasks(adapted, alpha, gradients[-1], shared=step == 0)
    kept = tuple(gradients) if setting.reuse and setting.hvp == "closed" else None
    return Trace(tuple(batches[:-1]), batches[-1], kept), lax.pmean(jnp.stack(scores), AXIS)


def inner_gradients(setting: Setting, theta: Tree, batch: Batch) -> Tree:
    """Return the inner gradients, stacked over tasks, at a shared ``theta`` or at one per task."""
    slope = functools.partial(gradient, setting, inner_loss)
    if theta["log_std"].ndim == 2:
        return over_tasks(setting, lambda pair: slope(*pair), (theta, batch))
    return over_tasks(setting, lambda one: slope(theta, one), batch)


def descend_tasks(theta: Tree, alpha: Tree, gradients: Tree, *, shared: bool) -> Tree:
    return jax.vmap(descend, in_axes=(None if shared else 0, None, 0))(theta, alpha, gradients)


def full_gradient(setting: Setting, params: Tree, trace: Trace) -> Tree:
    """Return one task's meta-gradient by reverse mode through the inner gradients."""

    def objective(params: Tree) -> jax.Array:
        theta, alpha = params
        for batch in trace.support:
            theta = descend(theta, alpha, gradient(setting, inner_loss, theta, batch))
        return outer_loss(theta, trace.query)

    return jax.grad(objective)(params)


def closed_gradient(setting: Setting, params: Tree, trace: Trace) -> Tree:
    """Return one task's meta-gradient by one Hessian-vector product per inner step, from the last step backwards."""
    theta, alpha = params
    visited = []
    for step, batch in enumerate(trace.support):
        slope = functools.partial(gradient, setting, inner_loss, batch=batch)
        if trace.gradients is None:
            g, product = jax.linearize(slope, theta)
        else:  # stored already: the compiler drops the computations that only they would need
            g, product = trace.gradients[step], functools.partial(hessian_product, slope, theta)
        visited.append((g, product))
        theta = descend(theta, alpha, g)
    v = gradient(setting, outer_loss, theta, trace.query)
    d_alpha = jax.tree.map(jnp.zeros_like, alpha)
    for g, product in reversed(visited):
        d_alpha = descend(d_alpha, g, v)
        v = jax.tree.map(jnp.subtract, v, product(jax.tree.map(jnp.multiply, alpha, v)))
    return v, d_alpha


def hessian_product(slope: Callable[[Tree], Tree], theta: Tree, direction: Tree) -> Tree:
    return jax.jvp(slope, (theta,), (direction,))[1]


def meta_gradient(setting: Setting, params: Tree, trace: Trace) -> Tree:
    """Return the mean meta-gradient over all tasks of all devices."""
    one = full_gradient if setting.hvp == "full" else closed_gradient
    stacked = over_tasks(setting, lambda task: one(setting, params, task), trace)
    return lax.pmean(mean_of(stacked), AXIS)


def update(setting: Setting, state: State, trace: Trace) -> State:
    """Take one Adam step per epoch, each on the meta-gradient of a replay of the trace."""
    for _ in range(setting.epochs):
        slope = meta_gradient(setting, state.params, trace)
        state = adam(state, slope, setting.meta_rate)
        trace = trace._replace(gradients=None)  # valid only at the parameters that explored
    return state


def adam(state: State, slope: Tree, rate: float) -> State:
    count = state.count + 1
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state.first, slope)
    second = jax.tree.map(lambda s, g: 0.999 * s + 0.001 * g * g, state.second, slope)
    size = rate * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
    params = jax.tree.map(lambda p, m, s: p - size * m / (jnp.sqrt(s) + 1e-8), state.params, first, second)
    return State(params, first, second, count)


def device_key(seed: jax.Array, kind: str = "rbg") -> jax.Array:
    """Return a key for each device; "rbg" draws large arrays fastest, but loops if every row has its own key."""
    return random.fold_in(random.key(seed, impl=kind), lax.axis_index(AXIS))


class Programs(NamedTuple):
    """The compiled iteration, and its parts alone; all but ``rollouts`` return what the next call needs."""

    total: Callable[[State, int], tuple[State, jax.Array]]
    explore: Callable[[Tree, int], tuple[Trace, jax.Array]]
    rollouts: Callable[[Tree, Tree, int], tuple[Episodes, ...]]
    update: Callable[[State, Trace], State]


def programs(setting: Setting) -> Programs:
    def total(state: State, seed: jax.Array) -> tuple[State, jax.Array]:
        trace, scores = explore(setting, state.params, device_key(seed))
        return update(setting, state, trace), scores

    def sample(params: Tree, seed: jax.Array) -> tuple[Trace, jax.Array]:
        return explore(setting, params, device_key(seed))

    def rollouts(theta: Tree, adapted: Tree, seed: jax.Array) -> tuple[Episodes, ...]:
        goal_key, *keys = random.split(device_key(seed), setting.inner_steps + 2)
        goal = random.uniform(goal_key, (setting.tasks // setting.devices, 2), minval=-0.5, maxval=0.5)
        starts = [theta] + [adapted] * setting.inner_steps
        return tuple(rollout(setting, start, goal, key) for start, key in zip(starts, keys, strict=True))

    lift = functools.partial(compiled, setting.devices)
    return Programs(
        lift(total, (Spec(), Spec()), Spec()),
        lift(sample, (Spec(), Spec()), (Spec(AXIS), Spec())),
        lift(rollouts, (Spec(), Spec(AXIS), Spec()), Spec(AXIS)),
        lift(functools.partial(update, setting), (Spec(), Spec(AXIS)), Spec()),
    )


def compiled(devices: int, function: Callable[..., Tree], inputs: Tree, outputs: Tree) -> Callable[..., Tree]:
    """Compile a function whose arguments and results are divided between devices as the specs say."""
    mesh = Mesh(jax.devices()[:devices], (AXIS,))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=outputs, check_vma=False))


def iterations(setting: Setting) -> Iterator[tuple[float, list[float]]]:
    """Run meta-iterations; yield the seconds and returns of each, where the first includes compilation."""
    program, state, seed = programs(setting).total, initial(setting), 0
    while True:
        start = time.perf_counter()
        state, scores = jax.block_until_ready(program(state, seed))
        yield time.perf_counter() - start, scores.tolist()
        seed += 1


def measure_w1(setting: Setting, repeats: int) -> dict[str, Any]:
    """Measure the times of the whole iteration and of its parts."""
    runs = iterations(setting)
    compile_seconds, _ = next(runs)
    next(runs)
    total = [next(runs) for _ in range(repeats)]
    parts, state = programs(setting), initial(setting)
    trace, _ = parts.explore(state.params, 0)
    theta = state.params[0]
    adapted = jax.tree.map(lambda leaf: jnp.tile(leaf, (setting.tasks, *[1] * leaf.ndim)), theta)
    report = {
        "config": asdict(setting),
        "compile_s": compile_seconds,
        "total_s": [seconds for seconds, _ in total],
        "explore_s": samples(lambda: parts.explore(state.params, 0), repeats),
        "rollout_s": samples(lambda: parts.rollouts(theta, adapted, 0), repeats),
        "update_s": samples(lambda: parts.update(state, trace), repeats),
        "returns": [scores for _, scores in total],
    }
    steps = setting.tasks * setting.episodes * setting.horizon * (setting.inner_steps + 1)
    report["environment_steps_per_s"] = steps / statistics.median(report["total_s"])
    for name in ("total_s", "explore_s", "rollout_s", "update_s"):
        tell(f"{name:<10} median {statistics.median(report[name]):.4f}  min {min(report[name]):.4f}")
    return report


def check(setting: Setting) -> dict[str, float]:
    """Return the relative errors of the closed meta-gradients, without and with reuse, against reverse mode's.

    Raises:
        SystemExit: an error is 1e-4 or more.
    """
    reuse = Setting(**{**asdict(setting), "hvp": "closed", "reuse": True})
    full = Setting(**{**asdict(setting), "hvp": "full", "blocks": 1})
    params = initial(setting).params
    trace, _ = programs(reuse).explore(params, 0)

    def flat(setting: Setting, trace: Trace) -> list[jax.Array]:
        function = functools.partial(meta_gradient, setting)
        slope = compiled(setting.devices, function, (Spec(), Spec(AXIS)), Spec())(params, trace)
        return [jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(part)]) for part in slope]

    without = trace._replace(gradients=None)
    expected = flat(full, without)
    errors = {}
    for name, kept in (("closed", without), ("closed, reuse", trace)):
        for part, value, target in zip(("theta", "alpha"), flat(reuse, kept), expected, strict=True):
            errors[f"{name}: {part}"] = float(jnp.linalg.norm(value - target) / jnp.linalg.norm(target))
    tell(f"relative errors against reverse mode: {errors}")
    if not max(errors.values()) < 1e-4:
        raise SystemExit("the meta-gradients disagree")
    return errors


# ---------------------------------------------------------------- W2: CartPole


class Physics(NamedTuple):
    """Gymnasium's CartPole-v1 constants, each ``[n]``."""

    gravity: jax.Array
    cart_mass: jax.Array
    pole_mass: jax.Array
    length: jax.Array
    force: jax.Array


class Case(NamedTuple):
    environment: str  # "own" or "gymnax"
    kind: str  # "random" actions or "policy"
    rows: int
    devices: int
    steps: int


def cartpole(physics: Physics, state: Tree, action: jax.Array) -> tuple[Tree, jax.Array]:
    """Step rows by Gymnasium's equations; return the next state, and whether the pole has fallen."""
    x, x_dot, theta, theta_dot = state
    sine, cosine = jnp.sin(theta), jnp.cos(theta)
    total = physics.cart_mass + physics.pole_mass
    moment = physics.pole_mass * physics.length
    push = jnp.where(action, physics.force, -physics.force)
    drive = (push + moment * theta_dot * theta_dot * sine) / total
    torque = physics.gravity * sine - cosine * drive
    angular = torque / (physics.length * (4.0 / 3.0 - physics.pole_mass * cosine * cosine / total))
    linear = drive - moment * angular * cosine / total
    x, x_dot = x + 0.02 * x_dot, x_dot + 0.02 * linear
    theta, theta_dot = theta + 0.02 * theta_dot, theta_dot + 0.02 * angular
    fallen = (jnp.abs(x) > 2.4) | (jnp.abs(theta) > 12 * 2 * math.pi / 360)
    return (x, x_dot, theta, theta_dot), fallen


def own_step(physics: Physics) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return ``step(key, state, action) -> state, reward, done`` and ``observe(state)`` for the equations above."""

    def step(key: jax.Array, state: Tree, action: jax.Array) -> tuple[Tree, jax.Array, jax.Array]:
        after, fallen = cartpole(physics, state, action)
        return after, jnp.ones_like(after[0]), fallen

    return step, lambda state: jnp.stack(state, -1)


def gymnax_step(physics: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return ``step`` and ``observe`` of gymnax, with its keys and auto-reset; its state includes the observation."""
    import gymnax

    environment, params = gymnax.make("CartPole-v1")
    vector = jax.vmap(environment.step, in_axes=(0, 0, 0, None))

    def step(key: jax.Array, state: Tree, action: jax.Array) -> tuple[Tree, jax.Array, jax.Array]:
        keys = random.split(key, len(action))
        observation, after, reward, *ends, _ = vector(keys, state[1], action.astype(jnp.int32), params)
        return (observation, after), reward, functools.reduce(jnp.logical_or, ends)

    return step, lambda state: state[0]


def start_w2(case: Case) -> tuple[Tree, Tree]:
    """Return the physics (None for gymnax) and initial states of all rows."""
    keys = random.split(random.key(0), 6)
    if case.environment == "gymnax":
        import gymnax

        environment, params = gymnax.make("CartPole-v1")
        return None, jax.vmap(environment.reset, in_axes=(0, None))(random.split(keys[0], case.rows), params)
    usual = (9.8, 1.0, 0.1, 0.5, 10.0)
    draws = [random.uniform(key, (case.rows,), minval=0.8, maxval=1.2) for key in keys[1:]]
    physics = Physics(*(value * draw for value, draw in zip(usual, draws, strict=True)))
    return physics, tuple(random.uniform(keys[0], (4, case.rows), minval=-0.05, maxval=0.05))


def stepping(case: Case, physics: Tree, state: Tree, actions: jax.Array, seed: jax.Array) -> Tree:
    """Take the given actions ``[steps, n]``; return the last state and every row's numbers of rewards and ends."""
    step, _ = (gymnax_step if case.environment == "gymnax" else own_step)(physics)

    def body(carry: Tree, action: jax.Array) -> tuple[Tree, None]:
        key, state, rewards, ends = carry
        key, step_key = next_keys(case, key)
        state, reward, done = step(step_key, state, action)
        return (key, state, rewards + reward, ends + done), None

    zeros = jnp.zeros(actions.shape[1])
    first = (device_key(seed, "threefry2x32"), state, zeros, zeros)
    _, *result = lax.scan(body, first, actions, unroll=unroll(case))[0]
    return tuple(result)


def acting(case: Case, physics: Tree, state: Tree, weights: Tree, seed: jax.Array) -> Tree:
    """Act with a policy that samples; return observation, action, logits, reward and end ``[steps, n, ...]``."""
    step, observe = (gymnax_step if case.environment == "gymnax" else own_step)(physics)
    count = observe(state).shape[0]
    noise = random.uniform(device_key(seed), (case.steps, count))

    def body(carry: Tree, noise_now: jax.Array) -> tuple[Tree, tuple[jax.Array, ...]]:
        key, state = carry
        key, step_key = next_keys(case, key)
        observation = observe(state)
        logits = tanh_policy(weights, observation)
        action = noise_now < jax.nn.sigmoid(logits[:, 1] - logits[:, 0])
        state, reward, done = step(step_key, state, action)
        return (key, state), (observation, action, logits, reward, done)

    return lax.scan(body, (device_key(seed, "threefry2x32"), state), noise, unroll=unroll(case))[1]


def unroll(case: Case) -> int:
    return UNROLL if case.environment == "own" else 1  # unrolling halves the speed of the loop with gymnax


def next_keys(case: Case, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    return tuple(random.split(key)) if case.environment == "gymnax" else (key, key)


def tanh_policy(weights: Tree, observation: jax.Array) -> jax.Array:
    hidden = jnp.tanh(observation @ weights[0] + weights[1])
    hidden = jnp.tanh(hidden @ weights[2] + weights[3])
    return hidden @ weights[4] + weights[5]


def tanh_weights() -> Tree:
    keys = random.split(random.key(1), 3)
    draw = jax.nn.initializers.orthogonal(1.0)
    shapes = ((4, 64), (64, 64), (64, 2))
    layers = [(draw(key, shape), jnp.zeros(shape[1])) for key, shape in zip(keys, shapes, strict=True)]
    return [leaf for layer in layers for leaf in layer]


def runs_w2(case: Case) -> Callable[[], Tree]:
    """Return the call to measure: all steps of all rows, with a compiled program."""
    physics, state = start_w2(case)
    rows = Spec(AXIS)
    if case.kind == "random":
        data = random.bernoulli(random.key(2), 0.5, (case.steps, case.rows))
        function, data_spec, outputs = stepping, Spec(None, AXIS), rows
    else:
        data = tanh_weights()
        function, data_spec, outputs = acting, Spec(), Spec(None, AXIS)
    inputs = (rows, rows, data_spec, Spec())
    program = compiled(case.devices, functools.partial(function, case), inputs, outputs)
    return lambda: program(physics, state, data, 0)


def measure_w2(cases: list[Case], repeats: int) -> dict[str, Any]:
    """Measure times and steps per second of every case, and the best speed of each over numbers of devices."""
    table, best = [], {}
    for case in cases:
        try:
            seconds = samples(runs_w2(case), repeats)
        except ImportError as error:
            tell(f"{case.environment} left out: {error}")
            continue
        speed = case.steps * case.rows / statistics.median(seconds)
        table.append({**case._asdict(), "seconds": seconds, "steps_per_s": speed})
        name = f"{case.environment}/{case.kind}/{case.rows}"
        best[name] = max(best.get(name, 0.0), speed)
        tell(f"{name:<22} {case.devices} devices {speed / 1e6:>9.2f} M steps/s  best run {min(seconds) * 1e3:.3f} ms")
    return {"table": table, "best_steps_per_s": best}


# ---------------------------------------------------------------- timing, command line


def samples(run: Callable[[], Tree], repeats: int) -> list[float]:
    """Return the seconds of each of ``repeats`` calls, after two that compile and warm up."""
    return [timed(run) for _ in range(repeats + 2)][2:]


def timed(run: Callable[[], Tree]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def serve(run: Callable[[], float]) -> None:
    """For every line "go" on stdin, run once and print the seconds that took."""
    tell("ready")
    for line in sys.stdin:
        if line.strip() == "go":
            print(f"{run():.6f}", flush=True)


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def versions() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "machine": platform.platform(),
    }
    for name in ("jax", "jaxlib", "gymnax", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def run_w1(arguments: argparse.Namespace) -> dict[str, Any] | None:
    names = ("tasks", "episodes", "horizon", "width", "inner_steps", "epochs", "mode", "hvp", "blocks", "reuse")
    arguments.blocks = arguments.blocks or arguments.devices  # one device spreads large products over the cores
    setting = Setting(**{name: getattr(arguments, name) for name in names}, devices=arguments.devices)
    if setting.tasks % setting.devices or setting.episodes * setting.horizon % setting.blocks:
        raise SystemExit("tasks must be divisible by devices, and episodes x horizon by blocks")
    if arguments.serve:
        runs = iterations(setting)
        next(runs), next(runs)
        return serve(lambda: next(runs)[0])
    errors = check(setting) if arguments.check else None
    return {**measure_w1(setting, arguments.repeats), "check": errors}


def run_w2(arguments: argparse.Namespace) -> dict[str, Any] | None:
    cases = [
        Case(environment, kind, rows, devices, arguments.steps)
        for environment in arguments.environments
        for kind in arguments.kinds
        for rows in arguments.rows
        for devices in arguments.devices
        if rows % devices == 0
    ]
    if not cases:
        raise SystemExit("no case to run: rows must be divisible by devices")
    if arguments.serve:
        if len({case._replace(devices=0) for case in cases}) > 1:
            raise SystemExit("--serve runs one case: give a single value of each of --environments, --kinds and --rows")
        run = min((runs_w2(case) for case in cases), key=lambda run: min(samples(run, 3)))  # best number of devices
        return serve(lambda: timed(run))
    return measure_w2(cases, arguments.repeats)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--repeats", type=int, default=7)
    common.add_argument("--output", type=Path, help="write the JSON document here as well")
    common.add_argument(
        "--serve", action="store_true", help='compile; then, per line "go" on stdin, run once and print seconds'
    )
    workloads = parser.add_subparsers(dest="workload", required=True)
    w1 = workloads.add_parser("w1", parents=[common], help="one Meta-SGD iteration on navigation")
    for name in ("tasks", "episodes", "horizon", "width", "epochs"):
        w1.add_argument(f"--{name}", type=int, default=getattr(Setting, name))
    w1.add_argument("--inner-steps", type=int, default=1, choices=(1, 2, 3))
    w1.add_argument("--mode", default="mapped", choices=("mapped", "batched"))
    w1.add_argument("--hvp", default="closed", choices=("closed", "full"))
    w1.add_argument("--reuse", action=argparse.BooleanOptionalAction, default=True)
    w1.add_argument("--devices", type=int, default=1, choices=(1, 2))
    w1.add_argument(
        "--blocks", type=int, help="blocks that a task's rows are split into in the update (default: devices)"
    )
    w1.add_argument("--check", action="store_true", help="compare the closed meta-gradients with reverse mode first")
    w2 = workloads.add_parser("w2", parents=[common], help="CartPole")
    w2.add_argument("--environments", nargs="+", default=["own", "gymnax"], choices=("own", "gymnax"))
    w2.add_argument("--kinds", nargs="+", default=["random", "policy"], choices=("random", "policy"))
    w2.add_argument("--rows", type=int, nargs="+", default=[1, 64, 1024, 16384])
    w2.add_argument("--devices", type=int, nargs="+", default=[1, 2])
    w2.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {arguments.repeats}")
    return arguments


def main() -> None:
    arguments = parse()
    devices = arguments.devices if isinstance(arguments.devices, int) else max(arguments.devices)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    result = run_w1(arguments) if arguments.workload == "w1" else run_w2(arguments)
    if result is None:
        return
    document = json.dumps({"versions": versions(), arguments.workload: result}, indent=2)
    print(document)
    if arguments.output:
        arguments.output.write_text(document + "\n")


if __name__ == "__main__":
    main()
