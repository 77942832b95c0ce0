"""`python -m segmentation.train`: train a segmentation network on a data set with masks, or on the demo scenes."""

from engine.entry import train_command
from segmentation.spec import SPEC

main = train_command(SPEC, __doc__)

if __name__ == "__main__":
    main()
