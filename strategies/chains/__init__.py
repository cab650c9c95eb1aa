"""Chain policies: how one chain is written."""
