"""Countdown, the proving ground: problems, exact solver, checker, traces, and how the shipped
models are trained. Use every number exactly once, with + - * /, to make the target."""
