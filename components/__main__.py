"""`python -m components` is `embedmill`: what `torchrun --nproc-per-node 2 -m components finetune` starts."""

from components.cli import main

if __name__ == "__main__":
    main()
