"""Schemas of the Parquet artifacts: the rows of each kind, and the labels that rows carry."""

import pyarrow as pa

_COMPONENT = [
    pa.field("layer", pa.int32(), nullable=False),
    pa.field("head", pa.int32()),  # null for an FFN
]


def _interval(statistic: str) -> list[pa.Field]:
    """A statistic and its 95 % interval, null where they are not defined."""
    return [pa.field(f"{statistic}{bound}", pa.float64()) for bound in ("", "_low", "_high")]


# score = sum(contributions) / sum(weights); a contribution and a weight for each of n documents, in
# the same order for every component.
_IMPORTANCE = [
    *_COMPONENT,
    pa.field("score", pa.float64(), nullable=False),
    pa.field("standard_error", pa.float64(), nullable=False),
    pa.field("n", pa.int32(), nullable=False),
    pa.field("contributions", pa.list_(pa.float64()), nullable=False),
    pa.field("weights", pa.list_(pa.float64()), nullable=False),
]

# What differs from row to row.
ROWS: dict[str, pa.Schema] = {
    # A request of lm-eval: one choice of one document.
    "tasks": pa.schema(
        [
            pa.field("split", pa.string(), nullable=False),  # "calibration" or "evaluation"
            pa.field("doc_id", pa.int32(), nullable=False),
            pa.field("choice", pa.int32(), nullable=False),
            pa.field("context", pa.string(), nullable=False),
            pa.field("continuation", pa.string(), nullable=False),
            pa.field("gold", pa.bool_(), nullable=False),
            pa.field("query_in_examples", pa.bool_(), nullable=False),
            pa.field("doc", pa.string()),  # at its first choice: `tasks.doc_codec`
        ]
    ),
    "importance": pa.schema(_IMPORTANCE),
    # A property of a checkpoint: engine and model differ by `difference`, rounding by `bound`.
    "verified": pa.schema(
        [
            pa.field("property", pa.string(), nullable=False),
            pa.field("dtype", pa.string(), nullable=False),
            pa.field("difference", pa.float64(), nullable=False),
            pa.field("bound", pa.float64(), nullable=False),
            pa.field("passed", pa.bool_(), nullable=False),
            pa.field("where", pa.string(), nullable=False),  # prompts, mask or layer; or an error
        ]
    ),
    # The importance by each of several estimators, over the same documents.
    "estimators": pa.schema([pa.field("estimator", pa.string(), nullable=False), *_IMPORTANCE]),
    # rank 0 is removed first.
    "rankings": pa.schema(
        [
            *_COMPONENT,
            pa.field("rank", pa.int32(), nullable=False),
            pa.field("score", pa.float64(), nullable=False),
        ]
    ),
    # A document at a pruning level. Levels are percentages asked for, `removed` are counts.
    "pruning": pa.schema(
        [
            pa.field("ranking", pa.string(), nullable=False),  # resolved name, a task for "closest"
            pa.field("heads_level", pa.float64(), nullable=False),
            pa.field("ffns_level", pa.float64(), nullable=False),
            pa.field("heads_removed", pa.int32(), nullable=False),
            pa.field("ffns_removed", pa.int32(), nullable=False),
            pa.field("doc_id", pa.int32(), nullable=False),
            pa.field("log_likelihoods", pa.list_(pa.float64()), nullable=False),
            pa.field("is_greedy", pa.list_(pa.bool_()), nullable=False),
            pa.field("metric", pa.float64(), nullable=False),  # its mean over documents is reported
            pa.field("results", pa.string(), nullable=False),  # lm-eval's process_results as JSON
        ]
    ),
    # A prompt under a mask, of `headcount.scores.evaluation_store`, which has the keys.
    "evaluations": pa.schema(
        [
            pa.field("mask", pa.binary(16), nullable=False),
            pa.field("prompt", pa.binary(16), nullable=False),
            pa.field("log_likelihood", pa.float64(), nullable=False),
            pa.field("is_greedy", pa.bool_(), nullable=False),
        ]
    ),
    # A prompt: sums over its tokens of |<A_t, d loss / d A_t>|, and without the bars, for each of
    # the N components.
    "gradients": pa.schema(
        [
            pa.field("prompt", pa.binary(16), nullable=False),
            pa.field("component", pa.string(), nullable=False),
            pa.field("absolute", pa.list_(pa.float32()), nullable=False),
            pa.field("signed", pa.list_(pa.float32()), nullable=False),
        ]
    ),
    # A request, by headcount unpruned and by lm-eval's own model.
    "parity": pa.schema(
        [
            pa.field("case", pa.string()),  # the edge case; null for a task's own requests
            pa.field("doc_id", pa.int32()),  # null for an edge case
            pa.field("same_request", pa.bool_(), nullable=False),
            pa.field("targets", pa.int32(), nullable=False),  # tokens of the continuation
            pa.field("truncated", pa.bool_(), nullable=False),
            pa.field("log_likelihood", pa.float64(), nullable=False),
            pa.field("hflm_log_likelihood", pa.float64(), nullable=False),
            pa.field("is_greedy", pa.bool_(), nullable=False),
            pa.field("hflm_is_greedy", pa.bool_(), nullable=False),
        ]
    ),
    # A pair of rankings; the `aggregate` row compares a task with the mean over tasks.
    "correlation": pa.schema(
        [
            pa.field("a", pa.string(), nullable=False),  # a task or "aggregate"
            pa.field("b", pa.string(), nullable=False),
            pa.field("shots_a", pa.int32(), nullable=False),
            pa.field("shots_b", pa.int32(), nullable=False),
            *_interval("rho"),
            *_interval("overlap"),
            pa.field("overlap_chance", pa.float64(), nullable=False),
            # rho between permuted components, and between heads permuted within their layer
            pa.field("p_permuted", pa.float64()),  # two-sided p-value of rho
            *_interval("permuted")[1:],
            pa.field("p_within_layers", pa.float64()),
            *_interval("within_layers")[1:],
        ]
    ),
    # A ranking from one half of the documents against that from the other.
    "reliability": pa.schema(
        [
            pa.field("task", pa.string(), nullable=False),  # or "aggregate"
            pa.field("shots", pa.int32(), nullable=False),
            pa.field("n", pa.int32(), nullable=False),  # documents of both halves
            pa.field("splits", pa.int32(), nullable=False),
            *_interval("rho"),
            *_interval("overlap"),
            pa.field("overlap_chance", pa.float64(), nullable=False),
            *_interval("spearman_brown"),  # of the rho: what all n documents would have
        ]
    ),
    "induction": pa.schema(
        [
            *_COMPONENT,
            pa.field("score", pa.float64(), nullable=False),
            pa.field("standard_error", pa.float64(), nullable=False),
            pa.field("n", pa.int32(), nullable=False),  # random sequences
        ]
    ),
}


_MODEL = pa.field("model", pa.string(), nullable=False)  # its name in the configuration
_TASK = pa.field("task", pa.string(), nullable=False)
_SHOTS = pa.field("shots", pa.int32(), nullable=False)
_COMPONENTS = pa.field("component", pa.string(), nullable=False)  # heads, ffns or combined
_RANKING = pa.field("ranking", pa.string(), nullable=False)
# What all rows of a file are about. It stands in each of them, so that many files read as one table
# need no names: Parquet keeps a column of equal values in some hundred bytes.
LABELS: dict[str, list[pa.Field]] = {
    "tasks": [_TASK, _SHOTS],
    "importance": [
        *[_MODEL, _TASK, _SHOTS, _COMPONENTS],
        pa.field("estimator", pa.string(), nullable=False),  # one of `importance.ESTIMATORS`
    ],
    "estimators": [_MODEL, _TASK, _SHOTS, _COMPONENTS],
    "verified": [_MODEL],
    "rankings": [_MODEL, _RANKING, _SHOTS, _COMPONENTS],
    "pruning": [
        *[_MODEL, _TASK, _SHOTS, _COMPONENTS],
        pa.field("order", pa.string(), nullable=False),  # what the ranking is to the task
    ],
    # Edge cases are of no task.
    "parity": [_MODEL, _TASK.with_nullable(True), _SHOTS.with_nullable(True)],
    "correlation": [_MODEL, _COMPONENTS],
    "reliability": [_MODEL, _COMPONENTS],
    "induction": [
        _MODEL,
        pa.field("kind", pa.string(), nullable=False),  # prefix_matching or copying
    ],
}
SCHEMAS = {kind: pa.schema([*LABELS.get(kind, []), *rows]) for kind, rows in ROWS.items()}
