// The metric while heads, or FFNs, are removed: a line for each order, every point a button.

import { byId, drawing, element, missing, roving } from "./dom.js";
import { ORDERS } from "./vocabulary.js";
import { componentsName, fixed, number, percent } from "./words.js";
import { curvePoints, of, taskName } from "./study.js";
import { choose, state, watch } from "./state.js";
import { isChosen, openDocuments } from "./point.js";

const HEIGHT = 360;
const MARGIN = { left: 48, right: 14, top: 12, bottom: 44 };

export function setUpCurves() {
  watch(["component", "task", "shots", "removed", "point", "width"], drawCurves);
}

function drawCurves() {
  const name = componentsName(state.component);
  byId("pruning-title").textContent = `What removing ${name} costs: ${taskName(state.task)}`;
  const points = curvePoints(state.component, state.task, state.shots);
  const counts = points.map((point) => point[`${state.component}_count`]);
  if (!points.length) {
    return byId("curves").replaceChildren(
      missing(`${taskName(state.task)} was not pruned by ${name}.`),
    );
  }
  if (Math.max(...counts) === 0) {
    return byId("curves").replaceChildren(
      missing(`No level of this study removes any of the ${name}.`),
    );
  }
  const focused = document.activeElement?.getAttribute("data-point");
  const there = Object.keys(ORDERS).filter((order) =>
    points.some((point) => point.order === order),
  );
  byId("curves").replaceChildren(chart(points, there), legend(there));
  roving(byId("curves"), "[role=button]");
  if (focused) byId("curves").querySelector(`[data-point="${focused}"]`)?.focus();
}

// --- the chart ---

function scalesOf(points) {
  const width = Math.max(byId("curves").clientWidth, 280);
  const low = Math.min(0, ...points.map((point) => point.low));
  const high = Math.max(1, ...points.map((point) => point.high));
  const { left, right, top, bottom } = MARGIN;
  return {
    width,
    low,
    high,
    x: (share) => left + ((width - left - right) * share) / 100,
    y: (value) => top + (HEIGHT - top - bottom) * (1 - (value - low) / (high - low)),
  };
}

function chart(points, there) {
  const scales = scalesOf(points);
  const { width, x, y } = scales;
  const metric = points[0].metric === "metric" ? "mean metric" : points[0].metric;
  const name = componentsName(state.component);
  const removed = (100 * state.removed) / of(state.component).layer.length;
  const chance = points[0].chance;
  return drawing(
    "svg",
    {
      width,
      height: HEIGHT,
      viewBox: `0 0 ${width} ${HEIGHT}`,
      role: "group",
      "aria-label": `${metric} by share of ${name} removed`,
    },
    ...grid(scales),
    Number.isNaN(chance)
      ? null
      : line(x(0), y(chance), x(100), y(chance), {
          stroke: "#777",
          "stroke-dasharray": "1 4",
          "stroke-width": 2,
        }),
    state.removed
      ? line(x(removed), y(scales.low), x(removed), y(scales.high), {
          stroke: "#d00000",
          "stroke-dasharray": "3 3",
        })
      : null,
    ...there.map((order) => band(points, order, scales)),
    ...there.map((order) => path(points, order, scales)),
    ...there.flatMap((order) => ofOrder(points, order).map((point) => button(point, scales))),
    drawing("text", { x: x(50), y: HEIGHT - 6, "text-anchor": "middle" }, `% of ${name} removed`),
    drawing(
      "text",
      {
        x: 12,
        y: y((scales.low + scales.high) / 2),
        "text-anchor": "middle",
        transform: `rotate(-90 12 ${y((scales.low + scales.high) / 2)})`,
      },
      metric,
    ),
  );
}

function ofOrder(points, order) {
  const share = `${state.component}_removed`;
  return points.filter((point) => point.order === order).sort((a, b) => a[share] - b[share]);
}

function line(x1, y1, x2, y2, attributes) {
  return drawing("line", { x1, y1, x2, y2, ...attributes });
}

function grid({ x, y, low, high }) {
  const across = [0, 20, 40, 60, 80, 100].flatMap((share) => [
    line(x(share), y(low), x(share), y(high), { class: "grid" }),
    drawing("text", { x: x(share), y: y(low) + 17, "text-anchor": "middle" }, String(share)),
  ]);
  const up = [0, 0.25, 0.5, 0.75, 1].flatMap((part) => {
    const value = low + part * (high - low);
    return [
      line(x(0), y(value), x(100), y(value), { class: "grid" }),
      drawing("text", { x: x(0) - 6, y: y(value) + 4, "text-anchor": "end" }, number(value, 2)),
    ];
  });
  return [...across, ...up];
}

function band(points, order, { x, y }) {
  const share = `${state.component}_removed`;
  const sorted = ofOrder(points, order);
  const upper = sorted.map((point) => `${x(point[share])},${y(point.high)}`);
  const lower = sorted.map((point) => `${x(point[share])},${y(point.low)}`).reverse();
  return drawing("polygon", {
    points: [...upper, ...lower].join(" "),
    fill: ORDERS[order].color,
    opacity: 0.1,
  });
}

function path(points, order, { x, y }) {
  const at = ofOrder(points, order).map(
    (point) => `${x(point[`${state.component}_removed`])},${y(point.value)}`,
  );
  const { color, dash } = ORDERS[order];
  return drawing("polyline", {
    points: at.join(" "),
    fill: "none",
    stroke: color,
    "stroke-width": 2,
    "stroke-dasharray": dashes(dash),
  });
}

function button(point, { x, y }) {
  const share = point[`${state.component}_removed`];
  const target = {
    component: state.component,
    order: point.order,
    heads_level: point.heads_level,
    ffns_level: point.ffns_level,
  };
  const text =
    `${percent(share)} of ${componentsName(state.component)} removed (${ORDERS[point.order].name}): ` +
    `${number(point.value)}, from ${number(point.low)} to ${number(point.high)}, ${fixed(100 * point.drop, 1)} points lost`;
  const open = () => openDocuments(target);
  return drawing(
    "g",
    {
      role: "button",
      "aria-label": text,
      "aria-pressed": String(isChosen(target)),
      "data-point": `${point.order} ${share}`,
      transform: `translate(${x(share)} ${y(point.value)})`,
      onclick: open,
      onkeydown: (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        open();
      },
    },
    drawing("circle", { r: 9, class: "halo", fill: "transparent" }),
    mark(point.order),
    drawing("title", {}, text),
  );
}

// of lines that are half as wide again as in a figure
function dashes(points) {
  return points.map((length) => 1.5 * length).join(" ");
}

function mark(order) {
  const { color, mark: shape } = ORDERS[order];
  const attributes = { fill: color, stroke: "#fff", "stroke-width": 1 };
  const paths = {
    square: "M-4 -4H4V4H-4Z",
    "triangle-up": "M0 -5.5L5 4H-5Z",
    "triangle-down": "M0 5.5L5 -4H-5Z",
    diamond: "M0 -5.5L5 0L0 5.5L-5 0Z",
  };
  if (shape === "circle") return drawing("circle", { r: 4.2, ...attributes });
  if (shape === "cross")
    return drawing("path", { d: "M-4 -4L4 4M-4 4L4 -4", stroke: color, "stroke-width": 2 });
  return drawing("path", { d: paths[shape], ...attributes });
}

function legend(there) {
  const chosen = there.map((order) =>
    element(
      "span",
      { class: "key" },
      drawing(
        "svg",
        { width: 44, height: 14, "aria-hidden": "true" },
        line(0, 7, 44, 7, {
          stroke: ORDERS[order].color,
          "stroke-width": 2,
          "stroke-dasharray": dashes(ORDERS[order].dash),
        }),
        drawing("g", { transform: "translate(22 7)" }, mark(order)),
      ),
      ORDERS[order].name,
    ),
  );
  return element("p", {}, ...chosen);
}
