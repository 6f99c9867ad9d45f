// Opens the study and draws every view; its charts again when the window's width changes.

import { byId } from "./dom.js";
import { load } from "./study.js";
import { begin, choose, drawAll } from "./state.js";
import { drawFacts, drawSummary } from "./summary.js";
import { setUpControls } from "./controls.js";
import { setUpSlider } from "./slider.js";
import { setUpMap } from "./map.js";
import { setUpRanks } from "./ranks.js";
import { setUpCurves } from "./curves.js";
import { setUpGrid } from "./together.js";
import { setUpDocuments } from "./documents.js";
import { setUpAgreement } from "./agreement.js";
import { setUpScatter } from "./scatter.js";

await load();
begin();
drawFacts();
drawSummary();
for (const setUp of [
  setUpControls,
  setUpSlider,
  setUpMap,
  setUpRanks,
  setUpCurves,
  setUpGrid,
  setUpDocuments,
  setUpAgreement,
  setUpScatter,
]) {
  setUp();
}
drawAll();
window.addEventListener("resize", () => choose({ width: document.body.clientWidth }));
byId("controls").onsubmit = (event) => event.preventDefault();
document.body.dataset.ready = "true";
