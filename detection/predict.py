"""`python -m detection.predict`: detect objects in images; writes pictures and a JSON file of COCO results."""

from detection.spec import SPEC
from engine.entry import predict_command

main = predict_command(SPEC, __doc__)

if __name__ == "__main__":
    main()
