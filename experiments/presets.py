"""Presets: named configurations, each with a one-line description."""

from __future__ import annotations

from experiments.config import Config

CARTPOLE = Config(
    hidden=(64, 64),
    activation="tanh",
    discount=0.95,
)
# Many tasks with few episodes each: one more long query episode adds little compared with one more task.
CARTPOLE_BEST = CARTPOLE.model_copy(
    update={
        "rule": "offset-meta-sgd",
        "inner_loss": "learned-advantage",
        "tasks": 40,
        "episodes": 5,
        "query_episodes": 3,
        "epochs": 4,
        "minibatches": 4,
        "entropy_penalty": 0.008,
        "final_share": 0.02,
        "env_steps": 6_000_000,
    }
)
# The direction and delay of a push are certain after a dozen steps. The learned advantage sees them (signal_effects),
# and is trained on so few episodes that it needs them. Soon most tasks are solved; scaling advantages over all tasks
# (query_scale) lets the unsolved ones count.
CARTPOLE_PUSHED = CARTPOLE_BEST.model_copy(
    update={"signal_effects": True, "tasks": 60, "episodes": 2, "query_scale": "tasks"}
)
NAVIGATION = Config(rate=0.3, rate_lr=0.03, epochs=3, decay=0.8, query_decay=1.0)
# Normalising advantages in every task would hide how far the goal is. A small network suffices, at a quarter of the
# cost. Rewards are a smooth function of the action, so that fitting it (action_baseline) leaves little noise: six
# episodes suffice, which saves environment steps for many tasks.
NAVIGATION_BEST = Config(
    hidden=(32, 32),
    log_std=0.5,
    rule="offset-once",
    rate=5.0,
    inner_loss="learned-reward",
    action_baseline=True,
    tasks=60,
    episodes=6,
    query_episodes=6,
    discount=0.0,
    normalize=False,
    baseline="cross-fitted",
    query_decay=0.95,
    lr=0.01,
    rate_lr=0.01,
    epochs=4,
    minibatches=4,
    final_share=0.02,
    env_steps=16_000_000,
)
# Rewards reach only so far around the goal, and a policy that never comes near learns nothing from them. Therefore the
# adapted policy is scored by the distance (scored_in), as in PEARL's training, and exploring episodes get credit for
# looking where the others of their task do not (coverage). Wide exploration (log_std) helps at the start. Many tasks
# with few episodes each.
SPARSE_BEST = Config(
    hidden=(32, 32),
    activation="tanh",
    rule="offset-once",
    rate=1.0,
    inner_loss="learned-loss",
    coverage=100.0,
    discount=0.9,
    normalize=False,
    query_decay=0.95,
    episodes=5,
    query_episodes=5,
    epochs=2,
    final_share=0.1,
)
# Every pull counts, including those of the adaptation steps (every_step). One epoch per trace: clipping relative to the
# sampling policies holds back what is learned about the steps in between.
BANDIT = Config(
    benchmark="bandit-5",
    hidden=(),
    rule="maml",
    rate=20.0,
    every_step=1.0,
    steps=9,
    tasks=200,
    episodes=10,
    query_episodes=10,
    discount=0.0,
    normalize=False,
    query_discount=0.0,
    lr=0.03,
    rate_lr=0.03,
    epochs=1,
    final_share=0.05,
    env_steps=1_000_000,
)
# Gradients through replayed steps miss what exploration earns later; evolution counts everything that is earned. The
# learned advantage is linear in the pay-out and determines how much a pull adds to its arm's logit. It does not see
# which arm was pulled: arms are interchangeable, and telling them apart would only be noise to evolution. With whitened
# outputs, the logit of an arm that is rarely pulled does not move less for that.
BANDIT_BEST = BANDIT.model_copy(
    update={
        "rule": "whitened-outputs",
        "rate": 1.25,
        "inner_loss": "learned-advantage",
        "signal_hidden": (),
        "signal_actions": False,
        "baseline": "zero",
        "steps": 19,
        "tasks": 100,
        "episodes": 5,
        "query_episodes": 5,
        "meta_optimizer": "evolution",
        "pairs": 8,
        "perturbation": 0.2,
        "lr": 0.005,
        "rate_lr": 0.3,
        "env_steps": 10_000_000,
    }
)

PRESETS: dict[str, tuple[str, Config]] = {
    "cartpole-polarity": (
        "balance with an actuator of hidden sign and strength, to be found out in one gradient step",
        CARTPOLE.model_copy(update={"benchmark": "cartpole-polarity", "env_steps": 2_000_000}),
    ),
    "cartpole-polarity-best": (
        "the same with an offset and a learned advantage that sees what pushes do, adapting on two episodes: our best",
        CARTPOLE_PUSHED.model_copy(update={"benchmark": "cartpole-polarity", "env_steps": 4_000_000}),
    ),
    "cartpole-all": (
        "everything about cart, pole and actuator hidden, and a delay; one gradient step",
        CARTPOLE.model_copy(update={"benchmark": "cartpole-all", "env_steps": 6_000_000}),
    ),
    "cartpole-all-best": (
        "the same with an offset and a learned advantage that sees what pushes do, adapting on two episodes: our best",
        CARTPOLE_PUSHED.model_copy(
            update={
                "benchmark": "cartpole-all",
                "scored_in": "cartpole-all-centred",  # teaches a safety margin, needed beyond the training range
                "epochs": 3,
                "minibatches": 2,
                "entropy_penalty": 0.01,  # with the weakest actuators, a single odd action is fatal
                "lr": 0.005,
                "env_steps": 12_000_000,
            }
        ),
    ),
    "cartpole-scrambled": (
        "cartpole-all with permuted and sign-flipped sensors; three gradient steps",
        CARTPOLE.model_copy(update={"benchmark": "cartpole-scrambled", "env_steps": 10_000_000, "steps": 3}),
    ),
    "cartpole-scrambled-best": (
        "the same with a linear policy and foresight, independent of the sensor wiring: our best",
        CARTPOLE_BEST.model_copy(
            update={
                "benchmark": "cartpole-scrambled",
                "hidden": (),
                "rule": "foresight",
                "rate": 300.0,
                "parameterisation": "positive",
                "rate_lr": 0.02,
                "inner_loss": "lvc",
                "discount": 0.9,  # the effect of a push on the fall shows soon, and is lost in noise later
                "decay": 0.8,
                "every_step": 0.5,
                "entropy_penalty": 0.0,
                "steps": 3,
                "tasks": 20,
                "episodes": 20,
                "env_steps": 6_000_000,
            }
        ),
    ),
    "cartpole-wide": (
        "five physical constants vary widely; 500 steps",
        CARTPOLE.model_copy(update={"benchmark": "cartpole-wide", "env_steps": 8_000_000}),
    ),
    "cartpole-packer": (
        "Packer et al. (2018): train on R, hold out D and E",
        CARTPOLE.model_copy(update={"benchmark": "cartpole-packer", "env_steps": 4_000_000}),
    ),
    "cartpole-packer-one-step": (
        "the same with a learned advantage and offset",
        CARTPOLE_BEST.model_copy(update={"benchmark": "cartpole-packer", "env_steps": 3_000_000}),
    ),
    "cartpole-packer-best": (
        "the same without adapting: a linear policy on scaled inputs, trained by evolution; our best",
        # velocities are ten times as large as angles, and gains for inputs scaled accordingly carry over to poles never
        # trained on; perturbations are so large that the policies found are almost deterministic
        CARTPOLE_BEST.model_copy(
            update={
                "benchmark": "cartpole-packer",
                "env_steps": 3_000_000,
                "scale_inputs": True,
                "rule": "maml",
                "inner_loss": "lvc",
                "steps": 0,
                "hidden": (),
                "tasks": 40,
                "query_episodes": 1,
                "meta_optimizer": "evolution",
                "perturbation": 30.0,
                "lr": 10.0,
                "final_share": 0.1,
            }
        ),
    ),
    "bandit": ("MAML on five arms, 100 pulls in ten batches (Duan et al. 2016, Mishra et al. 2018)", BANDIT),
    "bandit-best": ("the same in twenty batches: a learned advantage, meta-trained by evolution", BANDIT_BEST),
    "navigation-fixed": (
        "2-D navigation from the origin to a hidden goal (Li et al. 2017), tuned",
        NAVIGATION.model_copy(update={"benchmark": "navigation-fixed"}),
    ),
    "navigation-fixed-best": (
        "the same with a learned reward and an offset that separates exploring from acting: our best at one step",
        NAVIGATION_BEST.model_copy(update={"benchmark": "navigation-fixed"}),
    ),
    "navigation-varying-best": (
        "hidden goal, and a start drawn per task: our best at one step",
        NAVIGATION_BEST.model_copy(update={"benchmark": "navigation-varying"}),
    ),
    "navigation-halfcircle-best": (
        "goals on a half-circle, rewards only near them (Rakelly et al. 2019): explore five episodes, then go there",
        SPARSE_BEST.model_copy(
            update={
                "benchmark": "navigation-halfcircle",
                "scored_in": "navigation-halfcircle-dense",
                "log_std": 1.0,
                "tasks": 400,
                "minibatches": 8,
                "env_steps": 40_000_000,
            }
        ),
    ),
    "navigation-corners-best": (
        "goals in four corners, rewards from half-way on (Rothfuss et al. 2019): explore five episodes, then go there",
        SPARSE_BEST.model_copy(
            update={
                "benchmark": "navigation-corners",
                "scored_in": "navigation-corners-dense",
                "log_std": 0.5,
                "tasks": 80,
                "minibatches": 4,
                "env_steps": 24_000_000,
            }
        ),
    ),
    "navigation-varying": (
        "2-D navigation with a hidden goal and a start drawn per task (Li et al. 2017), tuned",
        NAVIGATION.model_copy(update={"benchmark": "navigation-varying"}),
    ),
    "meta-sgd-paper": (
        "2-D navigation as in the Meta-SGD paper: 100 trust-region iterations on step sizes and initialization",
        NAVIGATION.model_copy(
            update={
                "benchmark": "navigation-fixed",
                "rate": 0.05,
                "decay": 1.0,
                "inner_loss": "vpg",
                "outer_loss": "surrogate",
                "meta_optimizer": "trust-region",
                "env_steps": 8_000_000,
            }
        ),
    ),
}
