"""Costs: a model's shape, what a piece of decoding costs in FLOPs and Kinetics eFLOPs, prices."""
