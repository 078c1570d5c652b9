"""Training: one trainer for every network, with curves, checkpoints that resume bit-identically, and determinism.

Start at `LiverMarginLib.training.trainer.train`; what can be trained and how is in `LiverMarginLib.training.config`.
"""
