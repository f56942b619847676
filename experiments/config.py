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
    horizon: Count | None = Field(None, description="time limit in steps; defaults to the benchmark's")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(0, description="seed of initialization, tasks and noise")
    env_steps: Count = Field(
        8_000_000,
        description="training budget in environment steps, adaptation included; the last iteration is completed",
    )

    policy: str = Field("mlp", description="policy, by name or package.module:NAME")
    hidden: tuple[Count, ...] = Field((100, 100), description="sizes of the policy's hidden layers; no value: linear")
    context: Annotated[int, Field(ge=0)] = Field(0, description="number of inputs that are parameters, for CAVIA")
    activation: Literal["tanh", "relu"] = Field("relu", description="activation function")
    scale_inputs: bool = Field(
        False, description="divide observations by their standard deviation (training tasks, untrained policy)"
    )
    log_std: float = Field(0.0, description="initial log standard deviation of a Gaussian policy")

    rule: str = Field("meta-sgd", description="update rule, by name or package.module:NAME")
    rate: Annotated[float, Field(ge=0.0)] = Field(
        0.1, description="initial (or fixed) step size of the rule; your own rules set their own"
    )
    parameterisation: Literal["free", "positive", "bounded"] = Field(
        "free", description="constraint on learned step sizes"
    )
    max_rate: Positive = Field(10.0, description="upper bound of bounded step sizes")
    online_rate: Annotated[float, Field(ge=0.0)] = Field(0.01, description="how fast online rules adapt step sizes")
    inner_loss: str = Field("lvc", description="inner loss (adaptation), by name or package.module:NAME")
    signal_hidden: tuple[Count, ...] = Field(
        (32, 32), description="sizes of the hidden layers of a learned reward, advantage or loss; no value: linear"
    )
    signal_actions: bool = Field(
        True,
        description="learned signals see which action was taken; turn off if actions are interchangeable, as arms are",
    )
    signal_effects: bool = Field(
        False,
        description="learned signals also see what actions themselves do, by a linear fit to the task's episodes",
    )
    action_baseline: bool = Field(
        False, description="use a baseline that sees the action: less noise in the inner gradient, at some bias"
    )
    outer_loss: str = Field("clipped", description="outer loss (adapted policy), by name or package.module:NAME")
    entropy_penalty: float = Field(
        0.0, description="weight of the adapted policy's entropy, in nats, in the outer loss; negative is a bonus"
    )
    clip: Positive = Field(0.2, description="clip range of clipped losses")
    credit: Annotated[float, Field(ge=0.0)] = Field(0.0, description="weight of pre-update credit (E-MAML); 0 is none")
    coverage: Annotated[float, Field(ge=0.0)] = Field(
        0.0,
        description="weight of credit to each exploring episode for coming closer than the task's others to what "
        "scored_in rewards; 0 is none",
    )
    every_step: Annotated[float, Field(ge=0.0)] = Field(
        0.0,
        description="weight of what is earned while adapting: the outer loss on the episodes of every step, in the "
        "rewards adapted to (not those of scored_in)",
    )

    steps: Annotated[int, Field(ge=0)] = Field(1, description="adaptation steps K; 0 trains without adapting")
    tasks: Count = Field(20, description="tasks per meta-iteration: the meta-batch")
    episodes: Count = Field(20, description="episodes per task and adaptation step")
    query_episodes: Count = Field(20, description="episodes per task that score the adapted policy")
    scored_in: str | None = Field(
        None, description="benchmark whose rewards score the adapted policy in training; defaults to the one adapted to"
    )
    discount: Share = Field(0.99, description="discount of the inner loss")
    decay: Share = Field(1.0, description="GAE decay of the inner loss")
    normalize: bool = Field(True, description="normalise inner advantages to mean 0 and scale 1 in each task")
    query_discount: Share = Field(0.99, description="discount of the outer loss")
    query_decay: Share = Field(0.97, description="GAE decay of the outer loss")
    query_scale: Literal["task", "tasks"] = Field(
        "task",
        description="scale outer advantages to 1 in each task, or over all tasks so that mistakes count alike",
    )
    baseline: str = Field("linear", description="value baseline, by name")
    time_limit: Literal["terminal", "bootstrap"] = Field(
        "terminal", description="treat the end of the horizon as terminal, or bootstrap its value"
    )

    meta_optimizer: str = Field("descent", description="meta-optimizer, by name")
    lr: Positive = Field(3e-3, description="meta step size of the initialization")
    rate_lr: Positive | None = Field(
        None, description="meta step size of all else that is learned, such as step sizes; defaults to lr"
    )
    final_share: Share = Field(
        1.0, description="share of the meta step sizes that is left at the end of the budget; they fall linearly"
    )
    epochs: Count = Field(5, description="epochs of descent on each meta-batch")
    minibatches: Count = Field(
        1,
        description="parts of the meta-batch, of at least one task each; every epoch of descent takes a step on each",
    )
    max_norm: Positive | None = Field(1.0, description="clip the meta-gradient to this norm")
    patience: Annotated[int, Field(ge=0)] = Field(
        10, description="meta-iterations in a row that may diverge before the run stops"
    )
    perturbation: Positive = Field(0.05, description="standard deviation of evolution's perturbations")
    pairs: Count = Field(8, description="pairs of antithetic perturbations per meta-iteration of evolution")
    max_kl: Positive = Field(0.01, description="size of the trust region (KL divergence, in nats)")

    compile: bool = Field(False, description="train with compiled programs: pays off in runs of several minutes")

    def share(self, spent: float) -> float:
        """Return the share of the meta step sizes to use after ``spent`` environment steps of the budget."""
        left = max(0.0, 1.0 - spent / self.env_steps)
        return self.final_share + (1.0 - self.final_share) * left
