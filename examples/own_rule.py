"""A rule of one's own: step by the sign of the gradient, with a learned step size a layer.

    export PYTHONPATH=.    # finds modules of this folder; installed packages need none
    python experiments/check.py rule examples.own_rule:SignSGD    # says in words what is wrong with it
    python experiments/train.py cartpole-polarity --rule examples.own_rule:SignSGD --output runs/sign
    python experiments/evaluate.py runs/sign --plugin examples.own_rule:SignSGD

A rule is called with the policy's parameters by name. What it learns are ``nn.Parameter``s, here those of `Rates`,
which may be called as parameters are, with dots in their names.
"""

from metarl.rules import Positive, Rates, UpdateRule, layer_of


class SignSGD(UpdateRule):
    """``θ' = θ - α_layer sgn g`` (signSGD, Bernstein et al. 2018, arXiv:1802.04434), with every α meta-learned."""

    def __init__(self, params, rate=0.01):
        super().__init__()
        layers = {layer_of(name) for name in params}
        self.rates = Rates({layer: () for layer in sorted(layers)}, initial=rate, parameterisation=Positive())

    def update(self, step, state):
        """What is *added* to each parameter, by name, and what the rule remembers (nothing)."""
        rates = self.rates()
        return {name: -rates[layer_of(name)] * g.sign() for name, g in step.grads.items()}, state
