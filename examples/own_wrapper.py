"""A custom wrapper: actuators that do not respond to weak actions, up to an unknown threshold.

    export PYTHONPATH=. STUCK=examples.own_wrapper:benchmark  # installed packages need no PYTHONPATH
    python experiments/check.py family $STUCK
    python experiments/train.py navigation-fixed-best --benchmark $STUCK --env-steps 3000000 --output runs/stuck
    python experiments/evaluate.py runs/stuck --split extrapolation --plugin $STUCK

After less than a minute of training, one gradient step raises the return on new tasks from -43 to -4.9, and on larger
dead zones than those of training from -46 to -5.9.

A wrapper adds hidden constants to a family's tasks, and changes what goes in or comes out. Whatever it does not define
is the wrapped family's.
"""

from envs import Navigation, Parameter, Range, TaskBenchmark, Wrapper


class DeadZone(Wrapper):
    """Sets every component of an action to zero that is not larger than the hidden constant ``dead_zone``."""

    def __init__(self, family, dead_zone=0.0):
        own = {"dead_zone": Parameter(0.0, 0.0, 1.0, "1", "largest component of an action that has no effect")}
        super().__init__(family, own, {"dead_zone": dead_zone})

    def step(self, task, state, action):
        """Step the wrapped family with what is left of the action ``[*rows, components]``."""
        weak = action.abs() <= task["dead_zone"].unsqueeze(-1)
        return super().step(task, state, action.masked_fill(weak, 0.0))

    def references(self, task):
        """Return the wrapped family's ceiling: nothing is possible that was not possible before."""
        return self._ceiling(task)


def benchmark(horizon=100):
    """Train on dead zones of up to half of the largest action; extrapolate to larger ones."""
    beyond = DeadZone(Navigation(horizon), Range(0.5, 0.7))
    return TaskBenchmark("stuck", DeadZone(Navigation(horizon), Range(0.0, 0.5)), {"extrapolation": beyond})
