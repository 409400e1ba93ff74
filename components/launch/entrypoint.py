"""What a RayJob's head runs: the command whose words stand in its environment, where no shell has touched them."""

from __future__ import annotations

import json
import os

ARGUMENTS = "EMBEDMILL_ARGUMENTS"

if __name__ == "__main__":
    words = json.loads(os.environ.pop(ARGUMENTS))
    os.execvp(words[0], words)
