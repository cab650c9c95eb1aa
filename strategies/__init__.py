"""Strategies: how chains of thought are organised. One file a strategy."""
