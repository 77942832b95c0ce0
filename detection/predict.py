"""`python -m detection.predict`: find objects in images; writes pictures and COCO result JSON."""

from detection.spec import SPEC
from engine.entry import predict_command

main = predict_command(SPEC, __doc__)

if __name__ == "__main__":
    main()
