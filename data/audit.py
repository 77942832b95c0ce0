"""The audit is now `python -m experiments.audit ROOT`. This module prints that."""

import sys

if __name__ == "__main__":
    print("error: the audit is now: python -m experiments.audit", *sys.argv[1:], file=sys.stderr)
    sys.exit(2)
