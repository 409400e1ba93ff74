"""The pretrain step: a static embedding from scratch."""
