// Heads by layer, or FFNs by layer and task, as a heatmap: importance, rank, or induction scores.

import { arrow, byId, canvasIn, choices, element, hideTooltip, showTooltip, speak } from "./dom.js";
import { ESTIMATORS } from "./vocabulary.js";
import { componentsName, fixed, number } from "./words.js";
import { RAMP, shade } from "./colours.js";
import { nameOf, of, placeOf, scoredTasks, study, taskName, vectorOf } from "./study.js";
import { choose, scoredTask, state, watch } from "./state.js";
import { removalFor } from "./slider.js";

const COLORS = {
  importance: "importance",
  rank: "rank",
  prefix_matching: "prefix matching",
  copying: "copying",
};
const LEFT = 46;
const TOP = 6;
let layout = null; // of the heatmap as it is drawn

export function setUpMap() {
  const host = byId("map");
  byId("color").onchange = (event) => choose({ color: event.target.value });
  watch(["component"], drawColors);
  watch(["component", "task", "estimator", "color"], drawReading);
  const drawn = ["task", "shots", "component", "estimator", "color", "order", "removed", "index"];
  watch([...drawn, "width"], drawMap);
  host.onpointermove = host.onpointerdown = (event) =>
    pointAt(cellAt(event), event.clientX, event.clientY);
  host.onpointerleave = hideTooltip;
  host.onblur = hideTooltip;
  host.onkeydown = (event) => {
    const step = arrow(event);
    if (!step) return;
    event.preventDefault();
    move(step);
  };
}

function drawColors() {
  const induction = state.component === "heads" ? Object.keys(study.induction) : [];
  const names = ["importance", "rank", ...induction];
  choices(
    byId("color"),
    names.map((name) => [name, COLORS[name]]),
    state.color,
  );
}

function drawReading() {
  const heads = state.component === "heads";
  const held = study.heldout.includes(state.task)
    ? ` ${taskName(state.task)} is held out and has no importance of its own: this is ${taskName(scoredTask())}.`
    : "";
  byId("map-reading").textContent =
    `How to read this: ${heads ? "each cell is a head" : "each cell is an FFN, in its layer, for a task"}; ` +
    `darker is ${darkerIs()}. ` +
    `Point at one, or move there with the arrow keys, to see its rank everywhere; ` +
    `move the slider to remove the least important: what is gone is crossed out.${held}`;
}

function darkerIs() {
  const estimator = ESTIMATORS[state.estimator];
  return {
    importance: `more important by ${estimator}, colours by square root`,
    rank: `a higher rank by ${estimator}`,
    prefix_matching: "more attention to what followed the same token before (prefix matching)",
    copying: "more of the head's output on the token that it attends to (copying)",
  }[state.color];
}

// --- what is drawn ---

// The columns of the heatmap: heads of a layer, or tasks; `taskOf` a column.
function columnsOf() {
  const { layer, head } = of(state.component);
  const heads = state.component === "heads";
  const tasks = scoredTasks();
  const columns = heads ? Math.max(...head) + 1 : tasks.length;
  const layers = study.model.layers;
  const cells = new Int32Array(columns * layers).fill(-1);
  layer.forEach((at, index) => {
    if (heads) cells[at * columns + head[index]] = index;
    else cells.fill(index, at * columns, (at + 1) * columns);
  });
  return { columns, layers, cells, taskOf: (column) => (heads ? scoredTask() : tasks[column]) };
}

function measured() {
  const { columns, layers, cells, taskOf } = columnsOf();
  const heads = state.component === "heads";
  const room = byId("map").clientWidth - LEFT - 2;
  const width = Math.min(64, room / columns);
  const height = Math.min(heads ? Math.min(width, 36) : 28, 640 / layers);
  return { columns, layers, cells, taskOf, width, height, bottom: heads ? 40 : 118 };
}

function drawMap() {
  layout = measured();
  const { columns, layers, cells, taskOf, width, height, bottom } = layout;
  state.index ??= mostImportant();
  const host = byId("map");
  const context = canvasIn(host, LEFT + columns * width + 2, TOP + layers * height + bottom);
  const scales = new Map();
  for (let row = 0; row < layers; row++) {
    for (let column = 0; column < columns; column++) {
      const index = cells[row * columns + column];
      if (index < 0) continue;
      const task = taskOf(column);
      if (!scales.has(task)) scales.set(task, { ...scaleOf(task), isRemoved: removalFor(task) });
      drawCell(context, { index, ...place(row, column) }, scales.get(task));
    }
  }
  drawAxes(context);
  outline(context);
  const kind = state.component === "heads" ? "Heads by layer" : "FFNs by layer and task";
  host.setAttribute("aria-label", `${kind}; arrow keys move from one to the next`);
  drawLegend(scales.get(scoredTask()));
}

function place(row, column) {
  const { layers, width, height } = layout;
  return { x: LEFT + column * width, y: TOP + (layers - 1 - row) * height };
}

function drawCell(context, { index, x, y }, scale) {
  const { width, height } = layout;
  const gap = width > 8 ? 1 : 0;
  if (scale.isRemoved(index)) {
    context.strokeStyle = "#8a8a92";
    context.lineWidth = width > 12 ? 1 : 0.6;
    context.strokeRect(x + 0.5, y + 0.5, width - 1 - gap, height - 1 - gap);
    context.beginPath();
    context.moveTo(x + 0.5, y + height - gap - 0.5);
    context.lineTo(x + width - gap - 0.5, y + 0.5);
    context.stroke();
    return;
  }
  const { fill, ink } = shade(scale.share(index));
  context.fillStyle = fill;
  context.fillRect(x, y, width - gap, height - gap);
  if (state.component === "ffns" && width >= 38 && height >= 16) {
    context.fillStyle = ink;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(scale.text(index), x + width / 2, y + height / 2);
  }
}

// How a value becomes a colour between light and dark.
function scaleOf(task) {
  const vector = vectorOf(state.component, task, state.shots, state.estimator);
  if (!vector) return { share: () => 0, text: () => "–", low: "–", high: "–" };
  if (state.color === "rank") {
    const last = Math.max(vector.rank.length - 1, 1);
    return {
      share: (index) => vector.rank[index] / last,
      text: (index) => String(placeOf(vector, index)),
      low: `rank ${vector.rank.length}`,
      high: "rank 1",
    };
  }
  const induction = study.induction[state.color];
  const values = induction ? induction.score : vector.score;
  const root = (value) => (induction ? value : Math.sign(value) * Math.sqrt(Math.abs(value)));
  const low = values.reduce((a, b) => Math.min(a, b), 0);
  const high = values.reduce((a, b) => Math.max(a, b), 0);
  const span = root(high) - root(low) || 1;
  return {
    share: (index) => (root(values[index]) - root(low)) / span,
    text: (index) => number(values[index], 2),
    low: number(low),
    high: number(high),
  };
}

function drawAxes(context) {
  const { columns, layers, width, height, taskOf } = layout;
  context.fillStyle = "#1b1b1f";
  context.textBaseline = "middle";
  context.textAlign = "right";
  const rowStep = Math.max(1, Math.ceil(16 / height));
  for (let row = 0; row < layers; row += rowStep) {
    context.fillText(String(row), LEFT - 6, place(row, 0).y + height / 2);
  }
  context.save();
  context.translate(10, TOP + (layers * height) / 2);
  context.rotate(-Math.PI / 2);
  context.textAlign = "center";
  context.fillText("layer", 0, 0);
  context.restore();
  const below = TOP + layers * height + 4;
  if (state.component === "heads") drawHeadNumbers(context, below);
  else drawTaskNames(context, below, columns, width, taskOf);
}

function drawHeadNumbers(context, below) {
  const { columns, width } = layout;
  const step = Math.max(1, Math.ceil(22 / width));
  context.textAlign = "center";
  context.textBaseline = "top";
  for (let column = 0; column < columns; column += step) {
    context.fillText(String(column), LEFT + (column + 0.5) * width, below);
  }
  context.fillText("head", LEFT + (columns * width) / 2, below + 17);
}

function drawTaskNames(context, below, columns, width, taskOf) {
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (let column = 0; column < columns; column++) {
    const task = taskOf(column);
    context.save();
    context.translate(LEFT + (column + 0.5) * width, below + 2);
    context.rotate(-Math.PI / 2);
    context.fillText(taskName(task), 0, 0, 108);
    if (task === scoredTask()) context.fillText(taskName(task), 0.4, 0, 108); // bolder
    context.restore();
  }
}

function outline(context) {
  const { columns, cells, width, height, taskOf } = layout;
  cells.forEach((index, at) => {
    const column = at % columns;
    if (index !== state.index || taskOf(column) !== scoredTask()) return;
    const { x, y } = place(Math.floor(at / columns), column);
    context.lineWidth = 2;
    context.strokeStyle = "#fff";
    context.strokeRect(x - 1, y - 1, width + 1, height + 1);
    context.strokeStyle = "#d00000";
    context.strokeRect(x - 2, y - 2, width + 3, height + 3);
  });
}

function drawLegend(scale) {
  byId("legend").replaceChildren(
    element("span", {}, `${COLORS[state.color]}, ${taskName(scoredTask())}`),
    element("span", {}, scale.low),
    element("span", { class: "ramp", style: `background: ${RAMP}` }),
    element("span", {}, scale.high),
    element("span", { class: "note" }, state.removed ? "crossed out: removed" : ""),
  );
}

// --- the head or FFN that is pointed at ---

function mostImportant() {
  const vector = vectorOf(state.component, scoredTask(), state.shots, state.estimator);
  return vector ? vector.rank.indexOf(vector.rank.length - 1) : 0;
}

function cellAt(event) {
  const { columns, layers, cells, width, height, taskOf } = layout;
  const box = byId("map").querySelector("canvas").getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left - LEFT) / width);
  const row = layers - 1 - Math.floor((event.clientY - box.top - TOP) / height);
  if (column < 0 || column >= columns || row < 0 || row >= layers) return null;
  const index = cells[row * columns + column];
  return index < 0 ? null : { index, task: taskOf(column) };
}

function pointAt(cell, x, y) {
  if (!cell) return hideTooltip();
  choose({ index: cell.index });
  showTooltip(about(cell.index, cell.task), x, y);
}

export function about(index, task) {
  const vector = vectorOf(state.component, task, state.shots, state.estimator);
  const lines = [
    state.component === "heads"
      ? nameOf("heads", index)
      : `${nameOf("ffns", index)}, ${taskName(task)}`,
  ];
  if (vector) {
    const error = vector.error ? ` ± ${number(vector.error[index], 2)}` : "";
    lines.push(`importance ${number(vector.score[index])}${error}`);
    lines.push(
      `rank ${placeOf(vector, index)} of ${vector.rank.length} ${componentsName(state.component)}`,
    );
  }
  if (state.component === "heads") {
    for (const [kind, { score, error }] of Object.entries(study.induction)) {
      lines.push(`${COLORS[kind]} ${fixed(score[index])} ± ${fixed(error[index])}`);
    }
  }
  if (removalFor(task)(index)) lines.push("removed at this level");
  return lines;
}

function move([dx, dy]) {
  const { columns, layers, cells, taskOf, width, height } = layout;
  const heads = state.component === "heads";
  const at = cells.findIndex(
    (index, i) => index === state.index && taskOf(i % columns) === scoredTask(),
  );
  let column = at % columns;
  let row = Math.floor(at / columns);
  do {
    column += heads ? dx : 0;
    row -= dy;
  } while (
    row >= 0 &&
    row < layers &&
    column >= 0 &&
    column < columns &&
    cells[row * columns + column] < 0
  );
  if (row < 0 || row >= layers || column < 0 || column >= columns) return;
  const index = cells[row * columns + column];
  choose({ index });
  const lines = about(index, scoredTask());
  const box = byId("map").querySelector("canvas").getBoundingClientRect();
  const { x, y } = place(row, column);
  showTooltip(lines, box.left + x + width / 2, box.top + y + height / 2);
  speak(lines.join(", "));
}
