"""`python -m classification.eval`: evaluate a trained or published classifier."""

from classification.spec import SPEC
from engine.entry import eval_command

main = eval_command(SPEC, __doc__)

if __name__ == "__main__":
    main()
