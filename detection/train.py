"""`python -m detection.train`: train a detector on a data set with boxes, or on the demo scenes."""

from detection.spec import SPEC
from engine.entry import train_command

main = train_command(SPEC, __doc__)

if __name__ == "__main__":
    main()
