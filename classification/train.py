"""`python -m classification.train`: train a classifier on a data set with classes, or on the demo scenes."""

from classification.spec import SPEC
from engine.entry import train_command

main = train_command(SPEC, __doc__)

if __name__ == "__main__":
    main()
