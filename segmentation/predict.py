"""`python -m segmentation.predict`: predict the class of every pixel; writes palette PNGs and overlays."""

from engine.entry import predict_command
from segmentation.spec import SPEC

main = predict_command(SPEC, __doc__)

if __name__ == "__main__":
    main()
