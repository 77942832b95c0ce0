"""The Pareto front of score and cost."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the (score, cost) points on the Pareto front, in order of cost.

    A point is on the front if no other has at least its score at no more cost. Of equal points, the first one counts.
    """
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][1], -points[i][0])):
        if not front or points[i][0] > points[front[-1]][0]:
            front.append(i)
    return front
