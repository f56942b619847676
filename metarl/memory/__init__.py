"""RL^2: an agent that adapts by remembering instead of by gradient steps.

A recurrent actor-critic plays *trials*, several episodes of one unknown task in a row. It is told its previous
action, the reward and the ends of episodes, and keeps its memory from episode to episode; it is trained on the
return of whole trials, so that finding out what the task is pays where it pays later (Duan et al. 2016,
arXiv:1611.02779; Wang et al. 2016, arXiv:1611.05763). At test nothing is trained: adapting is acting.

The memory is a gated recurrent unit (Cho et al. 2014, arXiv:1406.1078, in the variant of ``torch.nn.GRU``),

    r  = sigmoid(W_r x + U_r h)        z = sigmoid(W_z x + U_z h)
    n  = tanh(W_n x + r * (U_n h))     h' = (1 - z) n + z h

with biases in all products, and h = 0 before a trial. Training is clipped PPO (Schulman et al. 2017,
arXiv:1707.06347) with generalised advantages over whole trials: an episode's end inside a trial is something
the agent sees, and cuts neither discount nor memory. Gradients go back through time within segments of
`MemoryPlan.segment` steps, each begun at the memory that the agent had when it acted (stored states;
Kapturowski et al. 2019, "Recurrent experience replay in distributed reinforcement learning").

An agent with a memory is an agent without one in a larger environment, whose state the memory joins:
that is how trials are rolled out by `metarl.rollouts`, with the same records and the same refusals.
"""

from metarl.memory.agent import MemoryPolicy, memory_policy
from metarl.memory.training import MemoryPlan, MemoryTrainer, Segments, segments, train_memory, trial_advantages
from metarl.memory.trials import TrialBatch, TrialFamily, TrialScores, collect_trials, score_trials

__all__ = [
    "MemoryPlan",
    "MemoryPolicy",
    "MemoryTrainer",
    "Segments",
    "TrialBatch",
    "TrialFamily",
    "TrialScores",
    "collect_trials",
    "memory_policy",
    "score_trials",
    "segments",
    "train_memory",
    "trial_advantages",
]
