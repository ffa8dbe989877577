"""What a sweep found, and numbers that are measured on the host at its end."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class Result(NamedTuple):
    """What a sweep found. NumPy arrays; N members, R records at equal intervals.

    Attributes:
      settings: name -> [N].
      table: name -> [N]: the settings and, for each member, what `summarize` says.
      steps: [R], the number of steps at each record.
      history: metrics (means over the steps since the record before, NaN once frozen), `score..` and `radius` (at the
        record): name -> [N, R].
      states: the last finite state of each member, leaves [N, ...].
      seconds: of computation, those of a resumed sweep added up; compilation left out.
    """

    settings: dict[str, np.ndarray]
    table: dict[str, np.ndarray]
    steps: np.ndarray
    history: dict[str, np.ndarray]
    states: Any
    seconds: float


def measure(result: Result, of_member: Callable[[int, Any], Mapping[str, Any]], *, progress: bool = False) -> Result:
    """Adds to the table what no compiled score can hold, an FID for example: computed on the host, once, at the end.

        result = sweep.measure(result, lambda member, state: {"fid": my_fid(state)})
        sweep.over_seeds(result.table, ["clip"], score="fid")

    Args:
      result: of `run`.
      of_member: (row of the table, the member's last state) -> numbers by name. Called for the members that are
        finite to the end; the others get NaN.
      progress: whether to show a bar.

    Returns:
      The result with a column for each name.

    Raises:
      ValueError: for a name that is a column already.
      TypeError: for anything but a dict.
    """
    from tqdm import tqdm

    columns: dict[str, np.ndarray] = {}
    for member in tqdm(np.flatnonzero(result.table["finite"]), "measuring", disable=not progress, unit="member"):
        measured = of_member(int(member), jax.tree.map(lambda x, i=member: x[i], result.states))
        if not isinstance(measured, Mapping):
            raise TypeError(f"of_member returns a dict of numbers, not a {type(measured).__name__}")
        for name, value in measured.items():
            if name in result.table:
                raise ValueError(f"the table has a column {name} already: give what is measured another name")
            columns.setdefault(name, np.full(len(result.table["finite"]), np.nan))[member] = value
    return result._replace(table=result.table | columns)
