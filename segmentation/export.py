"""`python -m segmentation.export`: write a trained network to a file for ONNX Runtime, OpenVINO or torch.export."""

from engine.entry import export_command
from segmentation.spec import SPEC

main = export_command(SPEC, __doc__)

if __name__ == "__main__":
    main()
