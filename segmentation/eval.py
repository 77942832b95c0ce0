"""`python -m segmentation.eval`: evaluate a trained segmentation network by mIoU on whole images."""

from engine.entry import eval_command
from segmentation.spec import SPEC

main = eval_command(SPEC, __doc__)

if __name__ == "__main__":
    main()
