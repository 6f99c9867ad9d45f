// The rank of one head or FFN in every task and at every number of shots.

import { byId, element } from "./dom.js";
import { componentsName, fixed, shotsName } from "./words.js";
import { shade, styleOf } from "./colours.js";
import { nameOf, placeOf, scoredTasks, study, taskName, vectorOf } from "./study.js";
import { scoredTask, state, watch } from "./state.js";

export function setUpRanks() {
  watch(["component", "task", "shots", "estimator", "index"], drawRanks);
}

function drawRanks() {
  const total = study.components[state.component].layer.length;
  byId("ranks").replaceChildren(
    element(
      "h3",
      { id: "ranks-title" },
      `${nameOf(state.component, state.index)}: its rank everywhere`,
    ),
    element(
      "p",
      { class: "note" },
      `1 is the most important of ${total} ${componentsName(state.component)}, ${total} the first to be removed.`,
    ),
    ...inductionLines(),
    element(
      "table",
      { class: "shaded", "aria-labelledby": "ranks-title" },
      element("thead", {}, element("tr", {}, element("td"), ...study.shots.map(shotsHeading))),
      element("tbody", {}, ...scoredTasks().map((task) => taskRow(task, total))),
    ),
  );
}

function shotsHeading(shots) {
  return element(
    "th",
    { scope: "col", class: shots === state.shots ? "chosen" : null },
    shotsName(shots),
  );
}

function taskRow(task, total) {
  const name = element(
    "th",
    { scope: "row", class: task === scoredTask() ? "chosen" : null },
    taskName(task),
  );
  const cells = study.shots.map((shots) => {
    const vector = vectorOf(state.component, task, shots, state.estimator);
    if (!vector) return element("td", {}, element("span", {}, "–"));
    const style = styleOf(shade(vector.rank[state.index] / Math.max(total - 1, 1)));
    return element("td", {}, element("span", { style }, String(placeOf(vector, state.index))));
  });
  return element("tr", {}, name, ...cells);
}

function inductionLines() {
  const kinds = Object.entries(study.induction);
  if (state.component !== "heads") return [];
  if (!kinds.length)
    return [element("p", { class: "missing" }, "This study has no induction scores.")];
  return kinds.map(([kind, { score, error }]) => {
    const value = score[state.index];
    const place = 1 + score.filter((other) => other > value).length;
    const text = `${kind.replace("_", " ")} ${fixed(value)} ± ${fixed(error[state.index])} (rank ${place})`;
    return element("p", {}, text[0].toUpperCase() + text.slice(1));
  });
}
