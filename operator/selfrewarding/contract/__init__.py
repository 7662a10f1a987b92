"""What the planner and the stage programs agree on: configuration in, result out, keys, seeds, artifact layout.

Imports nothing but pydantic, the standard library and `selfrewarding.api`. Changing what a program does with the same
configuration means raising `CONTRACT_VERSION`; golden keys in tests/golden guard against doing it by accident.
"""

CONTRACT_VERSION = 1
