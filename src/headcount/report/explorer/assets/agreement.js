// How alike the scores are of two tasks, or of two numbers of shots; a cell opens its scatter.

import { byId, element, missing, roving } from "./dom.js";
import { componentsName, fixed, percent, shotsName } from "./words.js";
import { signedShade, styleOf } from "./colours.js";
import { AGGREGATE, of, rowsWhere, scoredTasks, study, taskName } from "./study.js";
import { choose, state, watch } from "./state.js";

export function setUpAgreement() {
  watch(["component", "shots", "pair"], drawAgreement);
}

function drawAgreement() {
  const { pairs } = of(state.component);
  const between = rowsWhere(
    pairs,
    (row) => row.shots_a === state.shots && row.shots_b === state.shots,
  );
  const across = rowsWhere(pairs, (row) => row.shots_a !== row.shots_b);
  followShots(between, across);
  drawTasks(between);
  drawShots(across);
  byId("pair").textContent = state.pair ? pairText(pairOf([...between, ...across])) : "";
}

// The chosen pair at the shots that are chosen; at first the two tasks that agree least.
function followShots(between, across) {
  const { pair } = state;
  if (pair && pair.shots_a !== pair.shots_b) return;
  const tasks = between.filter(
    (row) => row.a !== row.b && row.b !== AGGREGATE && !Number.isNaN(row.rho),
  );
  const least = tasks.sort((a, b) => a.rho - b.rho)[0] ?? across[0];
  if (!pair) state.pair = least ? pairFrom(least) : null;
  else if (pair.shots_a !== state.shots)
    state.pair = { ...pair, shots_a: state.shots, shots_b: state.shots };
}

function pairFrom({ a, b, shots_a, shots_b }) {
  return { a, b, shots_a, shots_b };
}

function isPair(row, { a, b, shots_a, shots_b }) {
  const tasks = (row.a === a && row.b === b) || (row.a === b && row.b === a);
  return tasks && row.shots_a === shots_a && row.shots_b === shots_b;
}

function pairOf(rows) {
  return rows.find((row) => isPair(row, state.pair));
}

function pairText(row) {
  if (!row) return "";
  const about =
    row.shots_a === row.shots_b
      ? `${taskName(row.a)} and ${taskName(row.b)} at ${shotsName(row.shots_a)}`
      : `${taskName(row.a)} at ${shotsName(row.shots_a)} and ${shotsName(row.shots_b)}`;
  if (Number.isNaN(row.rho)) return `${about}: no SRCC, all scores of one are equal.`;
  const within = Number.isNaN(row.within_layers_low)
    ? ""
    : `; shuffled within layers, between ${fixed(row.within_layers_low)} and ${fixed(row.within_layers_high)}`;
  return (
    `${about}: SRCC ${fixed(row.rho)}, 95 % interval ${fixed(row.rho_low)} to ${fixed(row.rho_high)}. ` +
    `${percent(100 * row.overlap)} of their top 30 % of ${componentsName(state.component)} are the same (chance: ${percent(100 * row.overlap_chance)}). ` +
    `Shuffled scores correlate between ${fixed(row.permuted_low)} and ${fixed(row.permuted_high)} (95 %)${within}.`
  );
}

// --- the matrices ---

function drawTasks(rows) {
  if (!rows.some((row) => row.a !== row.b)) {
    return byId("tasks-matrix").replaceChildren(
      missing("A matrix of tasks needs two; this study has one."),
    );
  }
  const names = [...study.tasks, AGGREGATE];
  const find = (a, b) =>
    rows.find((row) => (row.a === a && row.b === b) || (row.a === b && row.b === a));
  const heading = names.map((name) =>
    element("th", { scope: "col" }, element("span", {}, taskName(name))),
  );
  const body = names.map((a) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, taskName(a)),
      ...names.map((b) => cell(find(a, b))),
    ),
  );
  matrix(
    "tasks-matrix",
    `${componentsName(state.component)}, ${shotsName(state.shots)}`,
    heading,
    body,
  );
}

function drawShots(rows) {
  if (!rows.length) {
    return byId("shots-matrix").replaceChildren(
      missing("A matrix of shots needs two numbers of shots; this study has one."),
    );
  }
  const columns = [...new Set(rows.map((row) => `${row.shots_a} and ${row.shots_b}`))];
  const names = [...scoredTasks().filter((task) => task !== AGGREGATE), AGGREGATE].filter((task) =>
    rows.some((row) => row.a === task),
  );
  const find = (task, column) =>
    rows.find((row) => row.a === task && `${row.shots_a} and ${row.shots_b}` === column);
  const body = names.map((task) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, taskName(task)),
      ...columns.map((column) => cell(find(task, column))),
    ),
  );
  const heading = columns.map((column) => element("th", { scope: "col" }, `${column} shots`));
  matrix(
    "shots-matrix",
    `${componentsName(state.component)}, a task at two numbers of shots`,
    heading,
    body,
  );
}

function matrix(id, caption, heading, body) {
  byId(id).replaceChildren(
    element(
      "table",
      {
        class: `shaded ${heading.length > 4 ? "slanted" : ""} ${heading.length > 10 ? "dense" : ""}`,
      },
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, element("td"), ...heading)),
      element("tbody", {}, ...body),
    ),
  );
  roving(byId(id), "button");
}

function cell(row) {
  if (!row) return element("td");
  const style = styleOf(signedShade(row.rho));
  if (row.a === row.b && row.shots_a === row.shots_b) {
    return element("td", {}, element("span", { style, title: "with itself" }, fixed(row.rho)));
  }
  const choosePair = () => {
    choose({ pair: pairFrom(row) });
    byId("agreement").querySelector("[aria-pressed=true]")?.focus();
  };
  return element(
    "td",
    {},
    element(
      "button",
      {
        type: "button",
        style,
        "aria-label": `${taskName(row.a)}, ${taskName(row.b)}: ${fixed(row.rho)}`,
        "aria-pressed": String(state.pair !== null && isPair(row, state.pair)),
        onclick: choosePair,
      },
      fixed(row.rho),
    ),
  );
}
