// Numbers and names as people read them.

import { ORDERS } from "./vocabulary.js";

export function number(value, digits = 3) {
  if (value === null || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text =
    size >= 1e5 || size < 1e-4
      ? value.toExponential(digits - 1)
      : String(+value.toPrecision(digits));
  return text.replace("-", "−");
}

export function fixed(value, digits = 2) {
  if (value === null || Number.isNaN(value)) return "–";
  const text = value.toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
}

export function percent(share) {
  return `${number(share, 2)} %`;
}

export function plural(count, name) {
  return `${String(count).replace(/\B(?=(\d{3})+$)/g, ",")} ${name}${count === 1 ? "" : "s"}`;
}

export function shotsName(shots) {
  return shots === 1 ? "1 shot" : `${shots} shots`;
}

export function componentsName(component) {
  return component === "heads" ? "heads" : "FFNs";
}

// Random orders are counted from 1.
export function orderName(order) {
  const [name, index] = order.split("-");
  return index === undefined ? (ORDERS[order]?.name ?? order) : `random order ${Number(index) + 1}`;
}
