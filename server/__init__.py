"""The HTTP service: what happens to finetunes, rollouts, steps and checkpoints; never tensors."""
