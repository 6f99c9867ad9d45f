// The scores behind a correlation: every head or FFN by two tasks, or at two numbers of shots.

import { arrow, byId, canvasIn, choices, hideTooltip, missing, showTooltip, speak } from "./dom.js";
import { number, shotsName } from "./words.js";
import { shade } from "./colours.js";
import { nameOf, of, placeOf, study, taskName, vectorOf } from "./study.js";
import { choose, state, watch } from "./state.js";

const LEFT = 44;
const BOTTOM = 40;
const TOP_SHARE = 0.3; // the most important, whose overlap is counted
let drawn = []; // points as they are drawn: x, y, index
let vectors = null;
let at = 0; // of the keyboard, in the order of x

export function setUpScatter() {
  const host = byId("scatter");
  choices(
    byId("axes"),
    [
      ["ranks", "ranks"],
      ["scores", "scores (square root)"],
    ],
    state.axes,
  );
  byId("axes").onchange = (event) => choose({ axes: event.target.value });
  watch(["component", "shots", "pair", "axes", "width"], drawScatter);
  host.onpointermove = host.onpointerdown = (event) => {
    const box = host.getBoundingClientRect();
    const found = nearest(event.clientX - box.left, event.clientY - box.top);
    if (found) showTooltip(about(found.index), event.clientX, event.clientY);
    else hideTooltip();
  };
  host.onpointerleave = hideTooltip;
  host.onblur = hideTooltip;
  host.onkeydown = (event) => {
    const step = arrow(event);
    if (!step || !drawn.length) return;
    event.preventDefault();
    move(step[0] - step[1]);
  };
}

function drawScatter() {
  const host = byId("scatter");
  const { pair } = state;
  drawn = [];
  byId("axes-label").hidden = !pair;
  if (!pair)
    return host.replaceChildren(
      missing("No pair to show: the study has one task and one number of shots."),
    );
  const estimator = of(state.component).estimators[0];
  vectors = [
    vectorOf(state.component, pair.a, pair.shots_a, estimator),
    vectorOf(state.component, pair.b, pair.shots_b, estimator),
  ];
  const side = Math.min(host.clientWidth - LEFT - 8, 420);
  const context = canvasIn(host, LEFT + side + 8, side + BOTTOM + 8);
  const [x, y] = vectors.map(scaleOf);
  const { layer } = of(state.component);
  drawn = Array.from(layer, (_, index) => ({
    index,
    x: LEFT + x(index) * side,
    y: 4 + (1 - y(index)) * side,
  }));
  drawn.sort((a, b) => a.x - b.x);
  drawFrame(context, side);
  const radius = layer.length > 1000 ? 2.2 : 4.5;
  for (const point of drawn)
    dot(context, point, radius, layer[point.index] / Math.max(study.model.layers - 1, 1));
  host.setAttribute(
    "aria-label",
    `${sideName(0)} by ${sideName(1)}; arrow keys move from point to point`,
  );
}

// A component's place between 0 and 1.
function scaleOf(vector) {
  if (state.axes === "ranks") return (index) => (vector.rank[index] + 0.5) / vector.rank.length;
  const root = (value) => Math.sign(value) * Math.sqrt(Math.abs(value));
  const low = root(vector.score.reduce((a, b) => Math.min(a, b), 0));
  const high = root(vector.score.reduce((a, b) => Math.max(a, b), 0));
  return (index) => 0.02 + (0.96 * (root(vector.score[index]) - low)) / (high - low || 1);
}

function drawFrame(context, side) {
  context.strokeStyle = "#8d8e96";
  context.strokeRect(LEFT, 4, side, side);
  context.fillStyle = "#1b1b1f";
  if (state.axes === "ranks") {
    const top = TOP_SHARE * side;
    context.fillStyle = "#f0f0f3";
    context.fillRect(LEFT + side - top + 1, 5, top - 2, top - 2);
    context.fillStyle = "#1b1b1f";
  }
  const text = state.axes === "ranks" ? "least to most important" : "importance";
  context.textAlign = "center";
  context.textBaseline = "alphabetic";
  context.fillText(`${sideName(0)}: ${text}`, LEFT + side / 2, side + 24, side);
  context.save();
  context.translate(LEFT - 12, 4 + side / 2);
  context.rotate(-Math.PI / 2);
  context.fillText(`${sideName(1)}: ${text}`, 0, 0, side);
  context.restore();
}

function dot(context, { x, y }, radius, depth) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = shade(depth).fill;
  context.fill();
  context.lineWidth = 0.6;
  context.strokeStyle = "#333";
  context.stroke();
}

function sideName(side) {
  const { a, b, shots_a, shots_b } = state.pair;
  const [task, shots] = side === 0 ? [a, shots_a] : [b, shots_b];
  return shots_a === shots_b ? taskName(task) : `${taskName(task)}, ${shotsName(shots)}`;
}

function about(index) {
  const line = (vector, side) =>
    `${sideName(side)}: ${number(vector.score[index])}, rank ${placeOf(vector, index)}`;
  return [nameOf(state.component, index), ...vectors.map(line)];
}

function nearest(x, y) {
  let found = null;
  let least = 12 ** 2;
  for (const point of drawn) {
    const distance = (point.x - x) ** 2 + (point.y - y) ** 2;
    if (distance < least) [found, least] = [point, distance];
  }
  return found;
}

function move(step) {
  at = Math.min(Math.max(at + Math.sign(step), 0), drawn.length - 1);
  const box = byId("scatter").getBoundingClientRect();
  const lines = about(drawn[at].index);
  showTooltip(lines, box.left + drawn[at].x, box.top + drawn[at].y);
  speak(lines.join(", "));
}
