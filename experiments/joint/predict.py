"""`python -m experiments.joint.predict`: boxes, class maps and classes of images, in one pass for all heads."""

from engine.entry import predict_command
from experiments.joint.spec import SPEC

main = predict_command(SPEC, __doc__)

if __name__ == "__main__":
    main()
