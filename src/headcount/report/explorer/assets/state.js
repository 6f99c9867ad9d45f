// What is chosen. Views say which choices they depend on, and are drawn again when one changes.

import { scoredTasks, study } from "./study.js";

export const state = {
  task: null,
  shots: null,
  component: "heads",
  estimator: null,
  color: "importance",
  order: null,
  removed: 0,
  index: null, // of the head or FFN whose ranks are shown
  point: null, // of a pruning curve or grid
  pair: null, // of two score vectors
  axes: "ranks",
  width: 0, // of the page, pixels
};

const views = [];

export function watch(names, draw) {
  views.push({ names, draw });
}

export function choose(changes) {
  const changed = Object.keys(changes).filter((name) => state[name] !== changes[name]);
  Object.assign(state, changes);
  for (const { names, draw } of views) {
    if (names.some((name) => changed.includes(name))) draw();
  }
}

export function drawAll() {
  for (const { draw } of views) draw();
}

export function begin() {
  state.width = document.body.clientWidth;
  state.task = scoredTasks()[0];
  state.shots = study.shots.at(-1);
  state.estimator = study.components.heads.estimators[0];
}

// Held-out tasks have no importance of their own: the mean over tasks stands in.
export function scoredTask() {
  return study.heldout.includes(state.task) ? scoredTasks()[0] : state.task;
}
