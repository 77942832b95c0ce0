"""The old name of the audit. It prints the new one, `python -m experiments.audit ROOT`."""

import sys

if __name__ == "__main__":
    print("error: the audit is now: python -m experiments.audit", *sys.argv[1:], file=sys.stderr)
    sys.exit(2)
