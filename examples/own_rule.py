"""A custom rule: step by the sign of the gradient, with one learned step size per layer.

    export PYTHONPATH=.    # to import modules from this folder; not needed for installed packages
    python experiments/check.py rule examples.own_rule:SignSGD    # explains what is wrong with it, if anything
    python experiments/train.py cartpole-polarity --rule examples.own_rule:SignSGD --output runs/sign
    python experiments/evaluate.py runs/sign --plugin examples.own_rule:SignSGD

A rule is constructed from the policy's parameters by name. Its learned numbers are ``nn.Parameter``s, here those of
`Rates`, which allows names with dots, like those of the policy's parameters.
"""

from metarl.rules import Positive, Rates, UpdateRule, layer_of


class SignSGD(UpdateRule):
    """``θ' = θ - α_layer sgn g`` (signSGD, Bernstein et al. 2018, arXiv:1802.04434), with every α meta-learned."""

    def __init__(self, params, rate=0.01):
        super().__init__()
        layers = {layer_of(name) for name in params}
        self.rates = Rates({layer: () for layer in sorted(layers)}, initial=rate, parameterisation=Positive())

    def update(self, step, state):
        """Return what is *added* to each parameter, by name, and the rule's state, which is empty."""
        rates = self.rates()
        return {name: -rates[layer_of(name)] * g.sign() for name, g in step.grads.items()}, state
