// The study's data by what it is about.

import { unpackElement } from "./pack.js";
import { plural } from "./words.js";

export const AGGREGATE = "aggregate";
export const study = {};
const rowsOf = new Map(); // columns -> their rows, once they were asked for

export async function load() {
  Object.assign(study, await unpackElement("study"));
}

export function of(component) {
  return study.components[component];
}

// The tasks with importance scores, the mean over several of them first.
export function scoredTasks() {
  return study.tasks.length > 1 ? [AGGREGATE, ...study.tasks] : study.tasks;
}

export function taskName(task) {
  return task === AGGREGATE ? study.mean : writtenName(task);
}

// A task or model as the study's figures write it.
export function writtenName(name) {
  return study.names[name] ?? name;
}

// A point's metric: of a task, or the mean over several.
export function metricName(point, task) {
  if (task !== AGGREGATE) return `${point.metric} of ${taskName(task)}`;
  return `mean ${point.metric} over ${plural(study.tasks.length, "task")}`;
}

// Scores, errors and ranks of all heads or FFNs; a held-out task has none.
export function vectorOf(component, task, shots, estimator) {
  return of(component).scores.find(
    (one) => one.task === task && one.shots === shots && one.estimator === estimator,
  );
}

// The rank of every component in an order of removal (0 goes first), which the study pruned by.
export function removalRanks(component, task, shots, order) {
  const { controls, estimators } = of(component);
  if (order !== "own" && order !== AGGREGATE) {
    return controls.find((one) => one.name === order && one.shots === shots)?.rank;
  }
  return vectorOf(component, order === "own" ? task : AGGREGATE, shots, estimators[0])?.rank;
}

export function removalOrders(component, task, shots) {
  const { controls } = of(component);
  const names = [
    "own",
    AGGREGATE,
    ...controls.filter((one) => one.shots === shots).map((one) => one.name),
  ];
  return [...new Set(names)].filter(
    (order) =>
      removalRanks(component, task, shots, order) && !(order === "own" && task === AGGREGATE),
  );
}

// Rows of columns as objects, those that `wanted` says.
export function rowsWhere(columns, wanted) {
  if (!rowsOf.has(columns)) {
    const names = Object.keys(columns);
    const row = (_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]]));
    rowsOf.set(columns, Array.from(columns[names[0]], row));
  }
  return rowsOf.get(columns).filter(wanted);
}

// Points of the pruning curves of a task, or of the mean over tasks.
export function curvePoints(component, task, shots) {
  const columns = component === "both" ? study.combined : of(component).curves;
  const named = task === AGGREGATE ? study.mean : task;
  return rowsWhere(columns, (row) => row.task === named && row.shots === shots);
}

// "3.5": layer 3, head 5; "3": the FFN of layer 3.
export function nameOf(component, index) {
  const { layer, head } = of(component);
  return component === "heads" ? `Head ${layer[index]}.${head[index]}` : `FFN ${layer[index]}`;
}

// 1 is the most important.
export function placeOf(vector, index) {
  return vector.rank.length - vector.rank[index];
}
