"""The pretrain step: a model from scratch, or a published one, on pairs and teachers."""
