"""Importing this module registers our families: ``gymnasium.make("envs.adapters.registered:metarl/CartPole-v0")``."""

from .registration import register

register()
