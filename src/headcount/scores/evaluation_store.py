"""A store of evaluations by content, so that no number is computed twice.

An evaluation is a prompt under a mask: its log-likelihood, and whether greedy decoding would
produce its targets. A row of gradients is a prompt with its contributions to every component. The
key of a row consists of

- the prompt: the tokens that the model reads, cut to its window, and the targets;
- the mask: the removed components and, if there are any, their stand-ins (`Ablation.made`);
- the `context`: weights, dtype, layout, backend, the code that computes and the packages that it
  uses.

The model's location and name, the device and the memory are not in the key. So a study with other
documents, levels or rankings computes only what is new, and a killed job continues from the last
part file that it wrote (`headcount.artifacts.parts`).

A number depends, by rounding, on the prompts and masks that it was computed together with, and the
remaining work of a killed job may be packed differently. So a study that reuses stored numbers may
differ in the last bits from one that computes them all, least on a CPU in float32 with one thread.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from torch import Tensor

import headcount
from headcount import engine
from headcount.artifacts import source_code
from headcount.artifacts.parts import PartFiles
from headcount.engine import Masks, gradients, likelihoods
from headcount.engine.memory import retry_with_less
from headcount.models.language_model import LanguageModel, Prompt

KEY = 16  # bytes
PACKAGES = ("torch", "transformers")
KINDS = {"evaluations": "likelihoods", "gradients": "gradients"}  # kind -> module of the engine


def context(
    fingerprint: str, dtype: str, backend: str | None = None, layout: dict | None = None
) -> dict:
    """Return what decides a model's numbers, beside prompts and masks.

    `fingerprint` is that of the checkpoint (`models.fingerprint`), `backend` that of
    `LanguageModel`, None if the engine is to choose.
    """
    return {"fingerprint": fingerprint, "dtype": dtype, "way": backend, "layout": layout}


@cache
def code(kind: str) -> dict:
    """Return the meaning of the code that computes rows of a kind, and versions of packages.

    The result is cached: a process computes with the code that it has loaded.
    """
    library = Path(headcount.__file__).parents[1]
    reached = source_code.reached([(library, f"{engine.__name__}.{KINDS[kind]}")])
    versions = reached.packages()
    counted = {name: version for name, version in versions.items() if name.split()[0] in PACKAGES}
    return {"code": reached.hash(), "packages": counted}


class Store:
    """The stored numbers of one model, in a directory; on exit new ones are written.

    Numbers of the same checkpoint under other names, in the directories `beside`, are read as well.
    `load` returns the model; it is called only when something has to be computed, since loading may
    take long.
    """

    def __init__(
        self,
        directory: str | Path,
        context: dict,
        load: Callable[[], LanguageModel],
        beside: Sequence[str | Path] = (),
    ):
        self.load = load
        made = {kind: {**context, **code(kind)} for kind in KINDS}
        self.parts = {kind: PartFiles(directory, kind, made[kind], beside) for kind in KINDS}

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        for parts in self.parts.values():
            parts.close()

    @cached_property
    def model(self) -> LanguageModel:
        """The model that computes."""
        return self.load()


def log_likelihoods(
    model: LanguageModel, prompts: Sequence[Prompt], masks: Masks, store: Store | None = None
) -> tuple[Tensor, Tensor]:
    """Return the results of `engine.log_likelihoods`, [M, prompts] each, reusing `store`.

    Without a store `model` computes everything, and nothing is kept.
    """
    if store is None:
        return likelihoods.log_likelihoods(model, prompts, masks)
    rows, row = _distinct(mask_keys(masks))
    columns, column = _distinct([prompt.key for prompt in prompts])
    known = _Known(list(rows), list(columns))
    known.take(store.parts["evaluations"])
    if known.missing.any():

        def sweep() -> None:
            for m, p in known.groups():
                chosen = [prompts[columns[known.prompts[i]]] for i in p]
                of_masks = masks[[rows[known.masks[i]] for i in m]]
                for part in likelihoods.in_parts(store.model, chosen, of_masks):
                    where = np.ix_([m[i] for i in part.masks], [p[i] for i in part.prompts])
                    known.learn(where, part, store.parts["evaluations"])

        retry_with_less(store.model, sweep)
    of_all = np.ix_(row, column)
    return torch.from_numpy(known.sums[of_all]), torch.from_numpy(known.greedy[of_all])


def contributions(
    model: LanguageModel, prompts: Sequence[Prompt], component: str, store: Store | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return sums over tokens of |<A_t, d loss / d A_t>| and of <A_t, d loss / d A_t> [prompts, N].

    These are the results of `engine.gradients.contributions` for the N components, reusing `store`.
    """
    keys, column = _distinct([prompt.key for prompt in prompts])
    found: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
    if store is not None:
        for table in store.parts["gradients"].tables():
            for row in _asked(table, keys, component).iter_rows(named=True):
                found[row["prompt"]] = np.array(row["absolute"]), np.array(row["signed"])

    def compute() -> None:
        missing = [key for key in keys if key not in found]
        chosen = [prompts[keys[key]] for key in missing]
        for part in gradients.contributions(computing, chosen, component) if missing else ():
            of_part = [missing[i] for i in part.prompts]
            both = [of.double().numpy() for of in (part.absolute, part.signed)]
            found.update(zip(of_part, zip(*both, strict=True), strict=True))
            if store is not None:
                _keep_gradients(store.parts["gradients"], of_part, component, *both)

    if set(keys) - set(found):
        computing = model if store is None else store.model
        retry_with_less(computing, compute)
    absolute, signed = (np.stack([found[key][i] for key in keys])[column] for i in (0, 1))
    return absolute, signed


# --- keys ---


def mask_keys(masks: Masks) -> list[bytes]:
    """Return the key of each mask: a hash of the components it removes and their stand-ins."""
    bits = torch.cat([*masks.heads, masks.ffns], dim=1).numpy()
    made = "" if masks.ablation is None else masks.ablation.made
    keys = []
    for of_mask in bits:
        left = b"" if of_mask.all() else made.encode()
        keys.append(hashlib.sha256(np.packbits(of_mask).tobytes() + left).digest()[:KEY])
    return keys


def _distinct(keys: Sequence[bytes]) -> tuple[dict[bytes, int], list[int]]:
    """Return the first index of each distinct key, and the number of the distinct key of each."""
    first: dict[bytes, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    number = {key: i for i, key in enumerate(first)}
    return first, [number[key] for key in keys]


# --- rows ---


class _Known:
    """Log-likelihoods and greedy flags [M, P] of masks and prompts; nan where missing."""

    def __init__(self, masks: list[bytes], prompts: list[bytes]):
        self.masks, self.prompts = masks, prompts
        self.sums = np.full((len(masks), len(prompts)), np.nan)
        self.greedy = np.zeros(self.sums.shape, dtype=bool)

    @property
    def missing(self) -> np.ndarray:
        return np.isnan(self.sums)

    def take(self, parts: PartFiles) -> None:
        """Fill in the rows of the part files."""
        masks = pl.DataFrame({"mask": self.masks}).with_row_index("m")
        prompts = pl.DataFrame({"prompt": self.prompts}).with_row_index("p")
        for table in parts.tables():
            rows = pl.from_arrow(table).join(masks, on="mask").join(prompts, on="prompt")
            where = rows["m"].to_numpy(), rows["p"].to_numpy()
            self.sums[where] = rows["log_likelihood"].to_numpy()
            self.greedy[where] = rows["is_greedy"].to_numpy()

    def learn(self, where: tuple, part: likelihoods.Swept, parts: PartFiles) -> None:
        """Fill in new results, and store them."""
        self.sums[where] = part.log_likelihoods.numpy()
        self.greedy[where] = part.is_greedy.numpy()
        masks, prompts = (where[0].flatten(), where[1].flatten())
        m, p = np.repeat(masks, len(prompts)), np.tile(prompts, len(masks))
        parts.add(
            {
                "mask": _fixed(self.masks).take(pa.array(m)),
                "prompt": _fixed(self.prompts).take(pa.array(p)),
                "log_likelihood": self.sums[m, p],
                "is_greedy": self.greedy[m, p],
            }
        )

    def groups(self) -> Iterator[tuple[list[int], list[int]]]:
        """Yield masks that lack the same prompts, with these, to be computed together."""
        by_prompts: dict[bytes, list[int]] = defaultdict(list)
        missing = self.missing
        for m, of_mask in enumerate(missing):
            if of_mask.any():
                by_prompts[of_mask.tobytes()].append(m)
        for masks in by_prompts.values():
            yield masks, np.flatnonzero(missing[masks[0]]).tolist()


def _asked(table: pa.Table, keys: dict[bytes, int], component: str) -> pl.DataFrame:
    rows = pl.from_arrow(table).filter(pl.col("component") == component)
    return rows.join(pl.DataFrame({"prompt": list(keys)}), on="prompt", how="semi")


def _keep_gradients(
    parts: PartFiles, keys: list[bytes], component: str, absolute: np.ndarray, signed: np.ndarray
) -> None:
    parts.add(
        {
            "prompt": _fixed(keys),
            "component": [component] * len(keys),
            "absolute": list(absolute.astype(np.float32)),
            "signed": list(signed.astype(np.float32)),
        }
    )


def _fixed(keys: list[bytes]) -> pa.Array:
    return pa.array(keys, pa.binary(KEY))
