"""Keep pytest, which collects docstrings, from importing a script that is written for an older version."""

collect_ignore = ["make_files.py"]
