// Which heads or FFNs are gone when the least important are removed, and what that cost.

import { byId, choices } from "./dom.js";
import { componentsName, fixed, number, orderName, percent } from "./words.js";
import {
  curvePoints,
  metricName,
  of,
  removalOrders,
  removalRanks,
  taskName,
} from "./study.js";
import { choose, scoredTask, state, watch } from "./state.js";

export function setUpSlider() {
  byId("order").onchange = (event) => choose({ order: event.target.value });
  byId("removed").oninput = (event) => choose({ removed: Number(event.target.value) });
  watch(["component", "task", "shots"], drawOrders);
  watch(["component", "removed"], drawSlider);
  watch(["component", "task", "shots", "order", "removed"], drawRemoval);
}

// Whether a component is removed, in the column of `task`: of FFNs every task's column is drawn, and
// a task's own importance removes from its own column alone.
export function removalFor(task) {
  if (state.order === "own" && task !== scoredTask()) return () => false;
  const ranks = removalRanks(state.component, scoredTask(), state.shots, state.order);
  return (index) => ranks !== undefined && ranks[index] < state.removed;
}

function drawOrders() {
  const there = removalOrders(state.component, scoredTask(), state.shots);
  if (!there.includes(state.order)) choose({ order: there[0] });
  choices(
    byId("order"),
    there.map((order) => [order, orderName(order)]),
    state.order,
  );
}

function drawSlider() {
  const slider = byId("removed");
  slider.max = of(state.component).layer.length;
  slider.value = state.removed;
  slider.setAttribute("aria-valuetext", countText());
}

function countText() {
  const total = of(state.component).layer.length;
  const share = percent((100 * state.removed) / total);
  return `${state.removed} of ${total} ${componentsName(state.component)} (${share})`;
}

function drawRemoval() {
  byId("removal").textContent = `${countText()} removed. ${costText()}`;
}

function costText() {
  const count = state.component === "heads" ? "heads_count" : "ffns_count";
  const points = curvePoints(state.component, state.task, state.shots).filter(
    (point) => point.order === state.order.split("-")[0],
  );
  if (!points.length) return `${taskName(state.task)} was not pruned in this order.`;
  const distance = (point) => Math.abs(point[count] - state.removed);
  const nearest = points.reduce((best, point) => (distance(point) < distance(best) ? point : best));
  const where =
    distance(nearest) === 0
      ? "Here"
      : `At ${nearest[count]} removed, the nearest level that was measured,`;
  const drop = 100 * nearest.drop;
  const cost = drop < 0 ? `${fixed(-drop, 1)} points gained` : `${fixed(drop, 1)} points lost`;
  return `${where} the ${metricName(nearest, state.task)} is ${number(nearest.value)}: ${cost}.`;
}
