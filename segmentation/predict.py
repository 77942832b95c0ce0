"""`python -m segmentation.predict`: the class of every pixel of images; writes palette PNGs, overlays and shares."""

from engine.entry import predict_command
from segmentation.spec import SPEC

main = predict_command(SPEC, __doc__)

if __name__ == "__main__":
    main()
