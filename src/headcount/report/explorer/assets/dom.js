// Elements. All text goes in as text, never as HTML, whatever is in it.

const SVG = "http://www.w3.org/2000/svg";

export function byId(id) {
  return document.getElementById(id);
}

export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function drawing(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false)
      node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

export function missing(text) {
  return element("p", { class: "missing" }, text);
}

// Fill a select with [value, name] pairs; one choice alone is shown and cannot be changed.
export function choices(select, pairs, chosen) {
  select.replaceChildren(
    ...pairs.map(([value, name]) => element("option", { value, selected: value === chosen }, name)),
  );
  select.disabled = pairs.length < 2;
}

// A canvas of CSS pixels, sharp on every screen; returns what draws on it.
export function canvasIn(host, width, height) {
  let canvas = host.querySelector("canvas");
  if (!canvas) {
    canvas = element("canvas", { "aria-hidden": "true" });
    host.replaceChildren(canvas);
  }
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "12px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif";
  return context;
}

// --- what is said of the thing under the pointer, or at the keyboard's place ---

export function showTooltip(lines, x, y) {
  const tooltip = byId("tooltip");
  tooltip.replaceChildren(...lines.map((line) => element("p", {}, line)));
  tooltip.hidden = false;
  const { width, height } = tooltip.getBoundingClientRect();
  const left = x + 14 + width > window.innerWidth ? x - 14 - width : x + 14;
  const top = y + 14 + height > window.innerHeight ? y - 14 - height : y + 14;
  tooltip.style.left = `${Math.max(4, left)}px`;
  tooltip.style.top = `${Math.max(4, top)}px`;
}

export function hideTooltip() {
  byId("tooltip").hidden = true;
}

export function speak(text) {
  byId("spoken").textContent = text;
}

// --- the keyboard ---

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export function arrow(event) {
  return STEPS[event.key];
}

// One tab stop for a group of buttons; arrow keys move to the nearest in their direction.
export function roving(host, selector) {
  const all = () => [...host.querySelectorAll(selector)];
  const enter = (chosen) =>
    all().forEach((one) => one.setAttribute("tabindex", one === chosen ? 0 : -1));
  enter(host.querySelector(`${selector}[aria-pressed="true"]`) ?? all()[0]);
  host.onfocusin = (event) => event.target.matches(selector) && enter(event.target);
  host.onkeydown = (event) => {
    const step = arrow(event);
    if (!step || !event.target.matches(selector)) return;
    event.preventDefault();
    nearest(event.target, all(), step)?.focus();
  };
}

function nearest(from, all, [dx, dy]) {
  const centre = (node) => {
    const box = node.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  const [x, y] = centre(from);
  let found = null;
  let least = Infinity;
  for (const node of all) {
    const [nodeX, nodeY] = centre(node);
    const along = (nodeX - x) * dx + (nodeY - y) * dy;
    const across = Math.abs((nodeX - x) * dy) + Math.abs((nodeY - y) * dx);
    if (along > 0.5 && along + 3 * across < least) {
      least = along + 3 * across;
      found = node;
    }
  }
  return found;
}
