"""The training engine that pretrain and finetune share, and the encoders that other steps read models with."""
