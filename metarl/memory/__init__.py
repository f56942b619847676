"""RL^2: an agent that adapts through its memory instead of by gradient steps.

A recurrent actor-critic plays *trials*, each of which is several consecutive episodes of one unknown task. It observes
its previous action, the reward and the ends of episodes, and keeps its memory from episode to episode. It is trained on
the return of whole trials, so that exploring the task pays off if it leads to higher returns later (Duan et al. 2016,
arXiv:1611.02779; Wang et al. 2016, arXiv:1611.05763). At test time nothing is trained: the agent adapts by acting.

The memory is a gated recurrent unit (Cho et al. 2014, arXiv:1406.1078, in the variant of ``torch.nn.GRU``),

    r  = sigmoid(W_r x + U_r h)        z = sigmoid(W_z x + U_z h)
    n  = tanh(W_n x + r * (U_n h))     h' = (1 - z) n + z h

with biases in all products, and h = 0 before a trial. Training is clipped PPO (Schulman et al. 2017,
arXiv:1707.06347) with generalised advantages over whole trials: the agent observes the end of an episode inside a
trial, but it interrupts neither discounting nor memory. Backpropagation through time is truncated to segments of
`MemoryPlan.segment` steps. Each segment starts from the memory that the agent had when it acted (stored states;
Kapturowski et al. 2019, "Recurrent experience replay in distributed reinforcement learning").

`metarl.rollouts` rolls out trials with the same records and checks as other episodes. To this end the memory is added
to the environment's state: in this larger environment, the agent is a policy without memory.
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
