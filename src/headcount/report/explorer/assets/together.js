// Heads by FFNs removed together: the metric at each cell, a button to its documents.

import { byId, choices, element, missing, roving } from "./dom.js";
import { ORDERS } from "./vocabulary.js";
import { fixed, percent } from "./words.js";
import { shade, styleOf } from "./colours.js";
import { curvePoints, metricName, taskName } from "./study.js";
import { state, watch } from "./state.js";
import { isChosen, openDocuments } from "./point.js";

let order = null; // of the removal that the grid shows

export function setUpGrid() {
  byId("grid-order").onchange = (event) => {
    order = event.target.value;
    drawGrid();
  };
  watch(["task", "shots", "point"], drawGrid);
}

function drawGrid() {
  const points = curvePoints("both", state.task, state.shots);
  const there = Object.keys(ORDERS).filter((name) => points.some((point) => point.order === name));
  byId("together-order").hidden = there.length === 0;
  if (!there.includes(order)) order = there[0];
  choices(
    byId("grid-order"),
    there.map((name) => [name, ORDERS[name].name]),
    order,
  );
  const shown = points.filter((point) => point.order === order);
  if (!shown.length) {
    return byId("grid").replaceChildren(
      missing(`${taskName(state.task)} was not pruned by both together.`),
    );
  }
  if (shown.length === 1) {
    return byId("grid").replaceChildren(
      missing("No combined level of this study removes a head or an FFN."),
    );
  }
  byId("grid").replaceChildren(table(shown));
  roving(byId("grid"), "button");
}

function table(points) {
  const shares = (name) => [...new Set(points.map((point) => point[name]))].sort((a, b) => a - b);
  const heads = shares("heads_removed");
  const ffns = shares("ffns_removed").reverse();
  const values = points.map((point) => point.value);
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  const cell = (across, up) => {
    const point = points.find((one) => one.heads_removed === across && one.ffns_removed === up);
    return point ? element("td", {}, button(point, (point.value - low) / span)) : element("td");
  };
  const columns = heads.map((share) => element("th", { scope: "col" }, percent(share)));
  return element(
    "table",
    { class: "shaded" },
    element(
      "caption",
      {},
      `${metricName(points[0], state.task)}; across: heads removed, up: FFNs removed`,
    ),
    element(
      "tbody",
      {},
      ...ffns.map((up) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, percent(up)),
          ...heads.map((across) => cell(across, up)),
        ),
      ),
    ),
    element("tfoot", {}, element("tr", {}, element("td", {}, "FFNs / heads"), ...columns)),
  );
}

function button(point, share) {
  const target = {
    component: "combined",
    order: point.order,
    heads_level: point.heads_level,
    ffns_level: point.ffns_level,
  };
  const removed = `${percent(point.heads_removed)} of heads and ${percent(point.ffns_removed)} of FFNs removed`;
  return element(
    "button",
    {
      type: "button",
      style: styleOf(shade(share)),
      title: `${removed}: ${fixed(point.value)} [${fixed(point.low)}, ${fixed(point.high)}], ${fixed(100 * point.drop, 1)} points lost`,
      "aria-label": `${removed}: ${fixed(point.value)}`,
      "aria-pressed": String(isChosen(target)),
      onclick: () => openDocuments(target),
    },
    fixed(point.value),
  );
}
