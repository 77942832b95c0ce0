"""`python -m classification.eval`: score a trained or published classifier by top-1, top-5 and class."""

from classification.spec import SPEC
from engine.entry import eval_command

main = eval_command(SPEC, __doc__)

if __name__ == "__main__":
    main()
