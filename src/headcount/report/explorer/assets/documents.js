// The documents that a point of a pruning curve changed: prompt, choices, log-likelihoods.

import { byId, choices, element, missing } from "./dom.js";
import { componentsName, fixed, number, orderName, plural, shotsName } from "./words.js";
import { AGGREGATE, curvePoints, study, taskName } from "./study.js";
import { choose, state, watch } from "./state.js";
import { unpackElement } from "./pack.js";

const SHOWN = 20; // at first, and by each press of "more"
const FILTERS = {
  changed: (change) => change !== 0,
  lost: (change) => change < 0,
  gained: (change) => change > 0,
  all: () => true,
};
const parts = new Map(); // those that were unpacked
let filter = "changed";
let ranking = null; // of several random ones
let shown = SHOWN;

export function setUpDocuments() {
  watch(["task", "shots", "point"], () => {
    shown = SHOWN;
    drawDocuments();
  });
}

async function drawDocuments() {
  const host = byId("changed");
  if (!state.point) {
    return host.replaceChildren(
      missing("Choose a point of a pruning curve, or a cell of the grid, above."),
    );
  }
  if (state.task === AGGREGATE) return host.replaceChildren(...byTask());
  const part = await partOf(state.task, state.shots);
  const points = part ? pointsOf(part) : [];
  if (!points.length) {
    return host.replaceChildren(
      missing(`${taskName(state.task)} was not pruned in this order at ${shotsName(state.shots)}.`),
    );
  }
  const point = points.find((one) => one.ranking === ranking) ?? points[0];
  const picker = points.length > 1 ? [rankingPicker(points, point)] : [];
  host.replaceChildren(heading(part, point), ...picker, ...list(part, point));
}

async function partOf(task, shots) {
  const index = study.documents.findIndex((one) => one.task === task && one.shots === shots);
  if (index < 0) return null;
  if (!parts.has(index)) parts.set(index, unpackElement(`documents-${index}`));
  return parts.get(index);
}

// The point in the study's files: one ranking, or one for each random order.
function pointsOf(part) {
  const { component, order, heads_level, ffns_level } = state.point;
  const wanted = order === "own" ? part.task : order;
  return part.points.filter(
    (point) =>
      point.component === component &&
      point.heads_level === heads_level &&
      point.ffns_level === ffns_level &&
      (order === "random" ? point.ranking.startsWith("random-") : point.ranking === wanted),
  );
}

function whatIsRemoved() {
  const { component, order, heads_level, ffns_level } = state.point;
  const shares = {
    heads: `${heads_level} % of heads`,
    ffns: `${ffns_level} % of FFNs`,
    combined: `${heads_level} % of heads and ${ffns_level} % of FFNs`,
  };
  return `${shares[component]} removed (${orderName(order)})`;
}

// --- the mean over tasks has no documents of its own: its tasks ---

function byTask() {
  const { component, order, heads_level, ffns_level } = state.point;
  const kind = component === "combined" ? "both" : component;
  const at = (task) =>
    curvePoints(kind, task, state.shots).find(
      (point) =>
        point.order === order &&
        point.heads_level === heads_level &&
        point.ffns_level === ffns_level,
    );
  const rows = study.tasks.map((task) => [task, at(task)]).filter(([, point]) => point);
  rows.sort(([, a], [, b]) => b.drop - a.drop);
  return [
    element(
      "p",
      {},
      `${whatIsRemoved()}, ${shotsName(state.shots)}. Choose a task to see its documents:`,
    ),
    element(
      "div",
      { class: "wide" },
      element(
        "table",
        {},
        element(
          "thead",
          {},
          element(
            "tr",
            {},
            ...["task", "unpruned", "pruned", "points lost"].map((name) =>
              element("th", { scope: "col" }, name),
            ),
          ),
        ),
        element("tbody", {}, ...rows.map(([task, point]) => taskRow(task, point))),
      ),
    ),
  ];
}

function taskRow(task, point) {
  const open = () => {
    byId("task").value = task;
    choose({ task });
    byId("documents-title").focus();
  };
  const values = [
    number(point.value + point.drop),
    number(point.value),
    fixed(100 * point.drop, 1),
  ];
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, element("button", { type: "button", onclick: open }, task)),
    ...values.map((value) => element("td", {}, value)),
  );
}

// --- the documents of one task ---

function heading(part, point) {
  const kept = part.kept < part.total ? ` This page holds the first ${part.kept} of them.` : "";
  return element(
    "p",
    { id: "counts" },
    `${taskName(part.task)}, ${shotsName(part.shots)}, ${whatIsRemoved()}: of ${plural(part.total, "document")} ` +
      `${point.lost} lost, ${point.gained} gained (${part.name}).${kept}`,
  );
}

function rankingPicker(points, point) {
  const select = element("select", {
    id: "random",
    onchange: (event) => {
      ranking = event.target.value;
      drawDocuments();
    },
  });
  choices(
    select,
    points.map((one) => [one.ranking, orderName(one.ranking)]),
    point.ranking,
  );
  return element("label", {}, "Random order ", select);
}

function list(part, point) {
  const before = part.metrics[part.whole.metric];
  const after = part.metrics[point.metric];
  const found = part.documents
    .map((document, index) => ({ document, index, change: after[index] - before[index] }))
    .filter(({ change }) => FILTERS[filter](change));
  const buttons = Object.keys(FILTERS).map((name) =>
    element(
      "button",
      { type: "button", "aria-pressed": String(name === filter), onclick: () => refilter(name) },
      name,
    ),
  );
  const more = () => {
    shown += SHOWN;
    drawDocuments();
  };
  const rest = found.length - shown;
  return [
    element(
      "div",
      { class: "filters", role: "group", "aria-label": "Which documents" },
      ...buttons,
    ),
    found.length ? null : element("p", {}, "None of the documents in this page."),
    ...found.slice(0, shown).map(({ document, index }) => card(part, point, document, index)),
    rest > 0
      ? element(
          "button",
          { type: "button", id: "more", onclick: more },
          rest > SHOWN ? `Show ${SHOWN} of ${rest} more` : `Show the other ${rest}`,
        )
      : null,
  ].filter((node) => node !== null);
}

function refilter(name) {
  filter = name;
  shown = SHOWN;
  drawDocuments().then(() => byId("changed").querySelector(".filters [aria-pressed=true]").focus());
}

function card(part, point, document, index) {
  const [start, end] = [part.starts[index], part.starts[index + 1]];
  const likelihoods = (row) => part.log_likelihoods[row].subarray(start, end);
  const before = likelihoods(part.whole.row);
  const after = likelihoods(point.row);
  const metrics = [part.metrics[part.whole.metric][index], part.metrics[point.metric][index]];
  const [sign, word] =
    metrics[1] < metrics[0]
      ? ["−", "lost"]
      : metrics[1] > metrics[0]
        ? ["+", "gained"]
        : ["=", "unchanged"];
  const picked =
    document.choices.length > 1
      ? [
          ": ",
          element("bdi", {}, document.choices[largest(before)].trim()),
          " → ",
          element("bdi", {}, document.choices[largest(after)].trim()),
        ]
      : [`: log-likelihood ${fixed(before[0])} → ${fixed(after[0])}`];
  return element(
    "details",
    {},
    element(
      "summary",
      {},
      element("span", { class: "mark" }, `${sign} ${word}`),
      ` document ${document.id}, ${part.name} ${number(metrics[0])} → ${number(metrics[1])}`,
      ...picked,
    ),
    ...document.contexts.flatMap((context, i) => prompt(context, document.cut[i])),
    element("div", { class: "wide" }, choiceTable(document, before, after)),
  );
}

function prompt(context, cut) {
  const note = cut
    ? [
        element(
          "p",
          { class: "note" },
          `The prompt's first ${plural(cut, "character")} are left out here.`,
        ),
      ]
    : [];
  return [
    ...note,
    element(
      "pre",
      { dir: "auto", tabindex: "0", role: "group", "aria-label": "prompt" },
      context || "(no context)",
    ),
  ];
}

function choiceTable(document, before, after) {
  const names = ["right", "before", "after", "change"];
  const row = (choice, i) =>
    element(
      "tr",
      {},
      element("td", { class: "choice", dir: "auto" }, choice),
      element("td", {}, document.gold[i] ? "✓" : ""),
      likelihood(before, i),
      likelihood(after, i),
      element("td", {}, fixed(after[i] - before[i])),
    );
  return element(
    "table",
    {},
    element("caption", {}, "Log-likelihood in nats; bold: the highest"),
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        element("th", { scope: "col", class: "choice" }, "choice"),
        ...names.map((name) => element("th", { scope: "col" }, name)),
      ),
    ),
    element("tbody", {}, ...document.choices.map(row)),
  );
}

function likelihood(values, i) {
  return element(
    "td",
    { class: i === largest(values) && values.length > 1 ? "best" : null },
    fixed(values[i]),
  );
}

function largest(values) {
  return values.indexOf(values.reduce((a, b) => Math.max(a, b)));
}
