// The study's answer: how much can be removed, in which order, beside the paper's.

import { byId, element, missing } from "./dom.js";
import { fixed, number, plural, shotsName } from "./words.js";
import { rowsWhere, study, writtenName } from "./study.js";

const ORDERS = ["own", "aggregate", "depth", "random"];
const HEADINGS = {
  own: "own importance",
  aggregate: "mean importance",
  depth: "depth",
  random: "random",
};
const NAMES = { heads: "heads", ffns: "FFNs", both: "heads + FFNs" };

export function drawFacts() {
  const { model, tasks, heldout, shots } = study;
  const parts = [
    `${model.architecture}: ${plural(model.layers, "layer")}, ${plural(model.heads, "head")}, ${plural(model.ffns, "FFN")}`,
    plural(tasks.length, "task") + (heldout.length ? ` and ${heldout.length} held out` : ""),
    `${shots.join(", ")}${shots.length === 1 && shots[0] === 1 ? " shot" : " shots"}`,
  ];
  byId("facts").textContent = parts.join(" · ");
}

export function drawSummary() {
  const points = number(100 * study.tolerance);
  byId("summary-reading").textContent =
    `How to read this: the largest share (%) of the heads, of the FFNs, or of both (heads + FFNs) that can be removed, ` +
    `least important first, for at most ${points} points of mean metric. “Own importance” removes by each task's own ` +
    `scores, “mean importance” by their mean over tasks; depth (top layer first) and random orders know nothing of ` +
    `importance. “Paper” is OPT-66B (Bansal et al., 2023).`;
  const rows = rowsWhere(study.summary, () => true);
  byId("answer").textContent = rows.length ? answer(rows) : "";
  byId("summary-table").replaceChildren(
    rows.length
      ? table(rows)
      : missing("Nothing to sum up: no level of this study removes a head or an FFN."),
  );
  byId("remarks").replaceChildren(
    ...study.remarks.map((remark) => element("p", { class: "note" }, `Note: ${remark}.`)),
  );
}

// In a sentence, at the most shots.
function answer(rows) {
  const shots = study.shots.at(-1);
  const own = (component) =>
    rows.find((row) => row.shots === shots && row.component === component && row.order === "own");
  const shares = [
    ["heads", (row) => `${fixed(row.heads_removed, 0)} % of its heads`],
    ["ffns", (row) => `${fixed(row.ffns_removed, 0)} % of its FFNs`],
    [
      "both",
      (row) =>
        `${fixed(row.heads_removed, 0)} % of its heads with ${fixed(row.ffns_removed, 0)} % of its FFNs`,
    ],
  ];
  const parts = shares
    .filter(([component]) => own(component))
    .map(([component, text]) => text(own(component)));
  const lost = `at most ${number(100 * study.tolerance)} points of mean metric`;
  return `At ${shotsName(shots)}, ${writtenName(study.model.name)} does without ${parts.join(", or ")}, for ${lost}.`;
}

function table(rows) {
  const heading = (name) => element("th", { scope: "col" }, name);
  const names = [
    "shots",
    "component",
    "unpruned",
    HEADINGS.own,
    "points lost",
    ...ORDERS.slice(1).map((order) => HEADINGS[order]),
    "paper",
  ];
  return element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...names.map(heading))),
    element("tbody", {}, ...study.shots.flatMap((shots) => groups(rows, shots))),
  );
}

function groups(rows, shots) {
  const there = Object.keys(NAMES).filter((component) =>
    rows.some((row) => row.shots === shots && row.component === component),
  );
  return there.map((component, i) => {
    const of = (order) =>
      rows.find((row) => row.shots === shots && row.component === component && row.order === order);
    const cells = ORDERS.slice(1).map((order) => share(component, of(order)));
    const own = of("own");
    const paper = { heads_removed: own.paper_heads, ffns_removed: own.paper_ffns };
    return element(
      "tr",
      { class: i === 0 ? "first" : null },
      element("th", { scope: "row" }, i === 0 ? shotsName(shots) : ""),
      element("th", { scope: "row" }, NAMES[component]),
      element("td", {}, fixed(own.unpruned, 3)),
      element("td", { class: "best" }, share(component, own)),
      element(
        "td",
        {},
        `${fixed(100 * own.drop, 1)} [${fixed(100 * own.drop_low, 1)}, ${fixed(100 * own.drop_high, 1)}]`,
      ),
      ...[...cells, share(component, paper)].map((text) => element("td", {}, text)),
    );
  });
}

function share(component, row) {
  if (!row || Number.isNaN(row.heads_removed)) return "–";
  const heads = fixed(row.heads_removed, 0);
  const ffns = fixed(row.ffns_removed, 0);
  return { heads, ffns, both: `${heads} + ${ffns}` }[component];
}
