"""`python -m classification.predict`: predict the class of images; writes pictures and the top classes as JSON."""

from classification.spec import SPEC
from engine.entry import predict_command

main = predict_command(SPEC, __doc__)

if __name__ == "__main__":
    main()
