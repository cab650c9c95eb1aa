"""Verifiers: what scores partial and finished solutions."""
