"""Families as Gymnasium environments, and Gymnasium environments as families.

Importing this package does not register any environments; call `register` to do so.
"""

from .gymnasium_family import GymnasiumFamily
from .registration import make_single, make_vector, register
from .single import FamilyEnv
from .vector import FamilyVectorEnv

__all__ = ["FamilyEnv", "FamilyVectorEnv", "GymnasiumFamily", "make_single", "make_vector", "register"]
