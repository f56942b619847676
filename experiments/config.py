"""The whole description of a training run: frozen, validated, written beside its results."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]


class Config(BaseModel):
    """What to train, on what, and for how long. Names are those of ``names.py``, or ``package.module:NAME``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=False)

    benchmark: str = Field("navigation-fixed", description="benchmark, by name or package.module:NAME")
    horizon: Count | None = Field(None, description="time limit in steps; the benchmark's own unless given")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="of initialization, tasks and noise")
    env_steps: Count = Field(
        8_000_000,
        description="training budget in environment steps, adaptation included; the last iteration is finished",
    )

    policy: str = Field("mlp", description="policy, by name or package.module:NAME")
    hidden: tuple[Count, ...] = Field((100, 100), description="units of the policy's hidden layers")
    context: Annotated[int, Field(ge=0)] = Field(0, description="inputs that are parameters, for CAVIA")
    activation: Literal["tanh", "relu"] = Field("relu", description="between the layers")
    scale_inputs: bool = Field(
        False, description="divide observations by their spread under the untrained policy on training tasks"
    )
    log_std: float = Field(0.0, description="first log standard deviation of a Gaussian policy")

    rule: str = Field("meta-sgd", description="update rule, by name or package.module:NAME")
    rate: float = Field(0.1, description="first (or fixed) step size of the rule; a rule of your own has its own")
    parameterisation: Literal["free", "positive", "bounded"] = Field("free", description="of learned step sizes")
    max_rate: Positive = Field(10.0, description="upper end of bounded step sizes")
    online_rate: Annotated[float, Field(ge=0.0)] = Field(0.01, description="how fast online rules change step sizes")
    inner_loss: str = Field("lvc", description="loss of adaptation, by name or package.module:NAME")
    signal_hidden: tuple[Count, ...] = Field(
        (32, 32), description="units of the hidden layers of a learned reward or advantage; none is linear"
    )
    signal_actions: bool = Field(
        True, description="learned signals see which action was taken; not, where actions are alike as arms are"
    )
    signal_effects: bool = Field(
        False,
        description="learned signals also see what actions do by themselves, by a linear fit to a task's episodes",
    )
    action_baseline: bool = Field(
        False, description="a baseline that sees the action: less noise in the inner gradient, on average the same"
    )
    outer_loss: str = Field("clipped", description="loss of the adapted policy, by name or package.module:NAME")
    entropy_penalty: float = Field(
        0.0, description="weight of the adapted policy's entropy, in nats, in the outer loss; below 0 a bonus"
    )
    clip: Positive = Field(0.2, description="range of clipped losses")
    credit: Annotated[float, Field(ge=0.0)] = Field(0.0, description="weight of pre-update credit (E-MAML); 0 is none")
    coverage: Annotated[float, Field(ge=0.0)] = Field(
        0.0,
        description="weight of credit to each exploring episode for coming closer than its task's others to what pays "
        "in scored_in",
    )
    every_step: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="weight of what is earned while adapting: the outer loss on every step's own episodes"
    )

    steps: Annotated[int, Field(ge=0)] = Field(1, description="adaptation steps K; 0 trains without adapting")
    tasks: Count = Field(20, description="tasks a meta-iteration")
    episodes: Count = Field(20, description="episodes a task and adaptation step")
    query_episodes: Count = Field(20, description="episodes a task that score the adapted policy")
    scored_in: str | None = Field(
        None, description="benchmark whose rewards score the adapted policy in training; that adapted to unless given"
    )
    discount: Share = Field(0.99, description="discount of the inner loss")
    decay: Share = Field(1.0, description="GAE decay of the inner loss")
    normalize: bool = Field(True, description="advantages of the inner loss to mean 0 and scale 1 in each task")
    query_discount: Share = Field(0.99, description="discount of the outer loss")
    query_decay: Share = Field(0.97, description="GAE decay of the outer loss")
    query_scale: Literal["task", "tasks"] = Field(
        "task",
        description="whose outer advantages have scale 1: each task's, or those of all, so that mistakes count alike",
    )
    baseline: str = Field("linear", description="value baseline, by name")
    time_limit: Literal["terminal", "bootstrap"] = Field("terminal", description="what the end of the horizon means")

    meta_optimizer: str = Field("descent", description="by name")
    lr: Positive = Field(3e-3, description="step size of descent on the initialization; of Reptile's move")
    rate_lr: Positive | None = Field(None, description="step size of descent on learned step sizes; lr unless given")
    final_share: Share = Field(1.0, description="of the meta-optimizer's step sizes at the end of the budget; linear")
    epochs: Count = Field(5, description="replays of one trace by descent")
    minibatches: Count = Field(
        1, description="parts of a trace's tasks, one task each at most; in every epoch descent takes a step on each"
    )
    max_norm: Positive | None = Field(1.0, description="clip the meta-gradient to this norm")
    patience: Annotated[int, Field(ge=0)] = Field(
        10, description="meta-iterations in a row that may diverge before the run stops"
    )
    perturbation: Positive = Field(0.05, description="of what is learned by evolution, a standard deviation")
    pairs: Count = Field(8, description="of antithetic perturbations a meta-iteration of evolution")
    max_kl: Positive = Field(0.01, description="trust region in nats")

    compile: bool = Field(False, description="train with compiled programs: pays in runs of several minutes")

    def share(self, spent: float) -> float:
        """Of the meta-optimizer's step sizes to use once so many environment steps of the budget are spent."""
        left = max(0.0, 1.0 - spent / self.env_steps)
        return self.final_share + (1.0 - self.final_share) * left
