// Colours of cells: a scale that is told apart in grey print and by colour-blind readers.

import { VIRIDIS } from "./vocabulary.js";

const LIGHT_TO_DARK = [...VIRIDIS].reverse();
export const RAMP = `linear-gradient(to right, ${LIGHT_TO_DARK.join(", ")})`;

function channels(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

const STOPS = LIGHT_TO_DARK.map(channels);

function between(stops, share) {
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  return stops[low].map((value, i) => value + (at - low) * (stops[low + 1][i] - value));
}

// share 0 (light) to 1 (dark) -> a fill and an ink that is read on it
export function shade(share) {
  return paint(between(STOPS, share));
}

// -1 to 1: white is 0, blue above, orange below
const ABOVE = [
  [255, 255, 255],
  [107, 174, 214],
  [8, 69, 148],
];
const BELOW = [
  [255, 255, 255],
  [253, 174, 107],
  [140, 45, 4],
];

export function signedShade(value) {
  return paint(
    Number.isNaN(value) ? [255, 255, 255] : between(value < 0 ? BELOW : ABOVE, Math.abs(value)),
  );
}

function paint(rgb) {
  const [red, green, blue] = rgb.map(Math.round);
  const light = 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
  return { fill: `rgb(${red} ${green} ${blue})`, ink: light > 0.18 ? "#000" : "#fff" };
}

function linear(channel) {
  const share = channel / 255;
  return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
}

export function styleOf({ fill, ink }) {
  return `background: ${fill}; color: ${ink}`;
}
