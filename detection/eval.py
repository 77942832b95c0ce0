"""`python -m detection.eval`: evaluate a trained or published detector with COCO's twelve metrics."""

from detection.spec import SPEC
from engine.entry import eval_command

main = eval_command(SPEC, __doc__)

if __name__ == "__main__":
    main()
