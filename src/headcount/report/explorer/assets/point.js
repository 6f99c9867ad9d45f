// A point of a pruning curve, or a cell of the grid: how much is removed, and in which order.

import { byId } from "./dom.js";
import { choose, state } from "./state.js";

export function isChosen(target) {
  return (
    state.point !== null && Object.keys(target).every((name) => target[name] === state.point[name])
  );
}

export function openDocuments(target) {
  choose({ point: target });
  byId("documents").scrollIntoView();
  byId("documents-title").focus({ preventScroll: true });
}
