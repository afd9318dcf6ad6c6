"""``python -m bumpnet_fast``: the same as the command ``bumpnet``."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
