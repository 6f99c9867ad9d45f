"""What Bansal et al. (2023) say of OPT-66B, each number with its section (ACL 2023, P23-1660).

Rethinking the Role of Scale for In-Context Learning: An Interpretability-based Case Study at 66
Billion Scale. Shares and levels in percent, costs in points of accuracy; layers are counted from 1,
as there. `headcount.report.comparison` holds a study against them.
"""

SHOTS = (0, 1, 5)  # section 4
LAYERS = 64  # section 2.1

# Section 5: how much goes before the mean accuracy over 14 tasks falls. Sections 5.1 and 5.2 remove
# by every task's own scores.
HEADS_REMOVED = {0: 70, 1: 70, 5: 70}  # section 5.1, Figure 5
FFNS_REMOVED = {0: 20, 1: 10, 5: 10}  # section 5.2, Figure 6
# Section 5.3: heads and FFNs together. By the aggregate scores, as Figure 7's caption has it; by
# "their respective importance scores", as its text does.
BOTH_REMOVED = {0: (70, 20), 1: (70, 10), 5: (60, 20)}
BOTH_COST = {0: 5, 1: 6, 5: 4}

# Section 4: where what matters lies.
FFN_EFFECT = 20  # section 4.2: what removing one FFN can change the accuracy of a task by
EARLY_LAYERS = 30  # section 4.2: whose FFNs 0- and 1-shot do without, 5-shot not

# Section 6.1: between tasks.
LEAST_SRCC = 0.13  # section 6.1.2, Figure 8a: of ReCoRD with COPA, and with Winogrande
TOP_OVERLAP = (71, 76)  # section 6.1.2: of these pairs' top 30 % of heads
TRANSFER_LEVEL = 50  # section 6.1.2: up to which other tasks' rankings do no harm
HELDOUT_COST = 2  # section 6.1.2: aggregate against own ranking, MathQA; more for LAMBADA

# Section 6.2, Table 1: SRCC between numbers of shots, mean over tasks. By `argsort` indices, as the
# authors' code computes it: see `headcount.scores.correlation`.
CROSS_SHOT = {(0, 1): 0.39, (0, 5): 0.37, (1, 5): 0.41}

# Section 6.3: induction heads.
PREFIX_MATCHING_FROM, COPYING_FROM = 31, 41  # layers whose heads score high
FLAT_UNTIL, STEEP_FROM = 20, 40  # section 6.3.1, Figure 11: prefix matching as heads are removed


def removable(component: str, shots: int) -> tuple[int, int] | None:
    """Percent of heads and of FFNs that go (section 5); None at shots that were not tried.

    `component` is "heads", "ffns" or "both".
    """
    if shots not in SHOTS:
        return None
    return {
        "heads": (HEADS_REMOVED[shots], 0),
        "ffns": (0, FFNS_REMOVED[shots]),
        "both": BOTH_REMOVED[shots],
    }[component]
