"""Registers our families when imported: ``gymnasium.make("envs.adapters.registered:metarl/CartPole-v0")``."""

from .registration import register

register()
