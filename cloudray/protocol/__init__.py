"""The protocol for tasks: records, decisions on them, and procedures that yield store operations.

Nothing here performs I/O, reads a clock or draws a random number. The driver, the agent and the
exhaustive model under `tests/` all run this same code.
"""
