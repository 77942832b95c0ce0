"""`python -m classification.export`: write a trained network to a file for ONNX Runtime, OpenVINO or torch.export."""

from classification.spec import SPEC
from engine.entry import export_command

main = export_command(SPEC, __doc__)

if __name__ == "__main__":
    main()
