"""Rankings: the order in which heads or FFNs are removed, the least important first.

A table of scores has the columns layer, head (null for an FFN) and score, with heads alone or FFNs
alone; more columns are ignored. A ranking has layer, head, rank and score, sorted by rank; rank 0
is removed first. `depth` and `random_order` are controls that ignore importance.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl

from headcount.artifacts import storage

COMPONENT = ["layer", "head"]


class RankingError(ValueError):
    """A file that does not rank a model's heads or FFNs, or a level that is no percentage."""


@dataclass(frozen=True)
class Cut:
    """A ranking, and the percentage of its components to remove."""

    ranking: str  # a name below artifacts/MODEL/rankings/, or a Parquet file
    level: float

    @classmethod
    def parse(cls, text: str) -> "Cut":
        """Return the cut written as RANKING@LEVEL, such as `aggregate/5-shot@70`.

        Raises `RankingError` for other text, and for a level that is not a percentage.
        """
        ranking, _, percent = str(text).rpartition("@")
        try:
            level = float(percent)
            count_removed(level, 0)
        except ValueError:
            level = -1
        if not ranking or level < 0:
            raise RankingError(
                f"{text!r} is not RANKING@LEVEL: give a ranking and a level in percent, such as "
                "aggregate/5-shot@70"
            )
        return cls(ranking, level)


def rank(scores: pl.DataFrame) -> pl.DataFrame:
    """Return the ranking of components by ascending score, ties by (layer, head).

    Raises `FloatingPointError` naming the layer when a score is not finite.
    """
    if (bad := scores.filter(~pl.col("score").is_finite())).height:
        layer, head = bad.select(COMPONENT).row(0)
        where = f"layer {layer}" + ("" if head is None else f", head {head}")
        raise FloatingPointError(f"the score of {where} is not finite")
    ordered = scores.sort("score", *COMPONENT)
    return ordered.select(
        pl.col("layer").cast(pl.Int32),
        pl.col("head").cast(pl.Int32),
        pl.int_range(pl.len(), dtype=pl.Int32).alias("rank"),
        pl.col("score").cast(pl.Float64),
    )


def by_name(paths: Iterable[str | Path]) -> dict[str, dict[str, pl.DataFrame]]:
    """Return the rankings in some artifacts: name -> component -> table."""
    tables: dict[str, dict[str, pl.DataFrame]] = {}
    for path in paths:
        made = storage.provenance(path)
        tables.setdefault(made["ranking"], {})[made["component"]] = storage.frame(path)
    return tables


def aligned(tables: Sequence[pl.DataFrame]) -> list[pl.DataFrame]:
    """Return the tables of scores, each sorted by (layer, head).

    Raises `ValueError` when there is none, or when they do not hold the same components.
    """
    if not tables:
        raise ValueError("no table of scores was given")
    tables = [table.sort(COMPONENT) for table in tables]
    for table in tables:
        if table.select(COMPONENT).rows() != tables[0].select(COMPONENT).rows():
            raise ValueError("the tables of scores do not hold the same components")
    return tables


def aggregate(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the table of mean scores over tasks, from a table of scores for each task.

    Raises `ValueError` when there is none, or when they do not hold the same components.
    """
    tables = aligned(tables)
    mean = np.mean([table["score"] for table in tables], axis=0)
    return tables[0].select(COMPONENT).with_columns(score=mean)


def most_documents(importance: Sequence[str | Path]) -> int:
    """Return the largest number of documents among the artifacts `importance`."""
    return max(storage.frame(path, ["n"])["n"].max() for path in importance)


def depth(components: pl.DataFrame) -> pl.DataFrame:
    """Return the control that removes the top layer's components first, head 0 before head 1.

    The score is minus the layer, so that the top layer has the lowest.
    """
    return rank(components.select(*COMPONENT, score=-pl.col("layer").cast(pl.Float64)))


def random_order(components: pl.DataFrame, seed: int, index: int) -> pl.DataFrame:
    """Return the control that is the `index`-th random order of `seed`.

    The score is the position in that order. The order of the rows does not matter, and heads and
    FFNs have separate random streams.
    """
    is_ffn = components["head"].null_count() > 0
    position = np.random.default_rng([seed, index, is_ffn]).permutation(components.height)
    return rank(components.select(COMPONENT).sort(COMPONENT).with_columns(score=position))


def least_important(ranking: pl.DataFrame, level: float) -> pl.DataFrame:
    """Return the floor(level * N / 100) least important of the N components, in rank order.

    Raises `ValueError` when the level is not between 0 and 100.
    """
    return ranking.sort("rank").head(count_removed(level, ranking.height))


def count_removed(level: float, components: int) -> int:
    """Return how many of `components` a level removes.

    `level` is a percentage, taken as the decimal number that it prints as: as a binary fraction,
    32.3 % of 1000 is less than 323, and one component too few would be removed.

    Raises `ValueError` when the level is not between 0 and 100.
    """
    if not 0 <= level <= 100:
        raise ValueError(f"pruning level {level} is not a percentage between 0 and 100")
    return math.floor(Fraction(str(level)) * components / 100)


def locate(ranking: str, component: str, home: Path) -> Path:
    """Return the file of a ranking, given as a path or by its name in `home`.

    `home` is artifacts/MODEL/rankings. A name is NAME/SHOTS-shot, or NAME if the ranking exists for
    one number of shots.

    Raises `RankingError` with the names that exist.
    """
    if Path(ranking).suffix == ".parquet" or Path(ranking).is_file():
        return Path(ranking)
    of_name = sorted(home.glob(f"{ranking}/*-shot/{component}.parquet"))
    found = [home / ranking / f"{component}.parquet", *of_name]
    found = [path for path in found if path.is_file()]
    if len(found) == 1:
        return found[0]
    known = found or home.glob(f"*/*-shot/{component}.parquet")
    names = ", ".join(sorted(str(path.parent.relative_to(home)) for path in known))
    problem = "exists for several numbers of shots" if found else "does not exist"
    raise RankingError(
        f"{component}: the ranking {ranking!r} {problem}: give a Parquet file, or one of "
        f"{names or f'those below {home}/, which has none yet'}"
    )


def read(path: str | Path, component: str, level: float) -> pl.DataFrame:
    """Return the ranking of `component` ("heads" or "ffns") in a Parquet file, to cut at `level`.

    Raises `RankingError` when it is not one, or when the level is above 0 and removes nothing.
    """
    try:
        ranking = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise RankingError(f"{component}: {path} is not a Parquet file: {error}") from error
    if missing := [name for name in (*COMPONENT, "rank") if name not in ranking.columns]:
        raise RankingError(
            f"{component}: {path} is not a ranking, it has no column {', '.join(missing)}: give a "
            "file below artifacts/MODEL/rankings/"
        )
    if (found := component_of(ranking)) != component:
        raise RankingError(f"{component}: {path} ranks {found}, not {component}")
    if level and not count_removed(level, ranking.height):
        least = math.ceil(1000 / ranking.height) / 10
        hint = f"did you mean {100 * level:g}?" if level < 1 else f"{least:g} % removes one"
        raise RankingError(
            f"{component}: {level:g} % of {ranking.height} {component} removes none: {hint}"
        )
    return ranking


def component_of(ranking: pl.DataFrame) -> str:
    """Return the component of a ranking, or of a table of scores: "heads" or "ffns"."""
    return "ffns" if ranking["head"].null_count() == ranking.height else "heads"


def components(component: str, heads: Sequence[int], ffns: Sequence[int]) -> list[tuple]:
    """Return (layer, head) of every head, or (layer, None) of every FFN ("heads" or "ffns").

    `heads` is the number of heads of each layer, `ffns` are the layers that have an FFN.
    """
    if component == "ffns":
        return [(layer, None) for layer in ffns]
    return [(layer, head) for layer, count in enumerate(heads) for head in range(count)]


def check(ranking: pl.DataFrame, heads: Sequence[int], ffns: Sequence[int], model: str) -> None:
    """Raise `RankingError` unless the ranking has all heads, or all FFNs, of the `model`.

    `heads` and `ffns` as for `components`.
    """
    expected = components(component_of(ranking), heads, ffns)
    if ranking.select(COMPONENT).sort(COMPONENT).rows() != expected:
        name = {"heads": "heads", "ffns": "FFNs"}[component_of(ranking)]
        raise RankingError(
            f"the ranking of {ranking.height} {name} does not fit the model {model}, which has "
            f"{len(expected)} in {len(heads)} layers: give a ranking of this model"
        )
