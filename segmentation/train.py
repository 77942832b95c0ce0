"""`python -m segmentation.train`: train a segmentation network on ADE20K, other mask folders or the demo scenes."""

from engine.entry import train_command
from segmentation.spec import SPEC

main = train_command(SPEC, __doc__)

if __name__ == "__main__":
    main()
