"""The audit has moved to `python -m experiments.audit ROOT`; the old name says so."""

import sys

if __name__ == "__main__":
    print("error: the audit is now: python -m experiments.audit", *sys.argv[1:], file=sys.stderr)
    sys.exit(2)
