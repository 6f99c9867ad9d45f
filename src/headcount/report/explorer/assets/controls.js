// The choices that all views follow: task, shots, component, estimator.

import { byId, choices } from "./dom.js";
import { ESTIMATORS } from "./vocabulary.js";
import { componentsName, shotsName } from "./words.js";
import { of, scoredTasks, study, taskName, vectorOf } from "./study.js";
import { choose, scoredTask, state, watch } from "./state.js";

export function setUpControls() {
  const heldout = study.heldout.map((task) => [task, `${taskName(task)} (held out)`]);
  choices(
    byId("task"),
    [...scoredTasks().map((task) => [task, taskName(task)]), ...heldout],
    state.task,
  );
  choices(
    byId("shots"),
    study.shots.map((shots) => [shots, shotsName(shots)]),
    state.shots,
  );
  choices(
    byId("component"),
    ["heads", "ffns"].map((name) => [name, componentsName(name)]),
    state.component,
  );
  byId("task").onchange = (event) => choose({ task: event.target.value });
  byId("shots").onchange = (event) => choose({ shots: Number(event.target.value) });
  byId("component").onchange = (event) => chooseComponent(event.target.value);
  byId("estimator").onchange = (event) => choose({ estimator: event.target.value });
  watch(["component", "task", "shots"], drawEstimators);
}

function chooseComponent(component) {
  const estimator = of(component).estimators[0];
  choose({ component, estimator, color: "importance", removed: 0, index: null, pair: null });
}

// Those that scored this task: all of them only where they were asked for.
function drawEstimators() {
  const there = of(state.component).estimators.filter((name) =>
    vectorOf(state.component, scoredTask(), state.shots, name),
  );
  if (!there.includes(state.estimator)) choose({ estimator: there[0] });
  choices(
    byId("estimator"),
    there.map((name) => [name, ESTIMATORS[name]]),
    state.estimator,
  );
}
