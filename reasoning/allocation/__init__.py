"""Allocation: which strategy, with which settings, a problem's budget is spent on."""
