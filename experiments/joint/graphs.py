"""The exported graph of a joint network: the raw outputs of all heads in one file."""

from __future__ import annotations

from typing import Any, ClassVar

from backbones.errors import UserError
from engine.export.graphs import Graphs
from experiments.joint.task import JointTask
from experiments.tasks import TASKS


class JointGraphs(Graphs[JointTask]):
    """The graph, whose outputs are named HEAD_OUTPUT. Post-processing stays outside."""

    results: ClassVar[tuple[str, ...]] = ()
    compared: ClassVar[str] = "results of all heads: boxes, pixels and most probable classes"

    @classmethod
    def use_exported_results(cls, task: Any) -> None:
        """Raise UserError: there is no post-processing in the graph."""
        raise _outside()

    def after(self, photograph: bool) -> str:
        """Raise UserError, see `use_exported_results`."""
        raise _outside()

    def differing(self, expected: dict[str, Any], found: dict[str, Any]) -> tuple[int, int]:
        """Results that differ, and all results, of all heads."""
        differ = total = 0
        for name, kind in self.task.config.kinds.items():
            graphs = TASKS[kind].load_graphs()
            more = graphs.differing(graphs.__new__(graphs), expected[name], found[name])  # uses no attribute
            differ, total = differ + more[0], total + more[1]
        return differ, total


def _outside() -> UserError:
    """The error for post-processing in the graph. The caller raises it."""
    return UserError(
        "`postprocess` and `preprocess` are not available for several heads: leave them out",
        settings=("postprocess", "preprocess"),
    )
