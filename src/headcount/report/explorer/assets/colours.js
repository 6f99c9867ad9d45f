// Colours that are told apart in grey print and by colour-blind readers: one scale, light to dark, and
// for orders of removal Okabe and Ito's palette with a dash and a mark each.

const VIRIDIS = [
  "#fde725",
  "#b5de2b",
  "#6ece58",
  "#35b779",
  "#1f9e89",
  "#26828e",
  "#31688e",
  "#3e4989",
  "#482878",
  "#440154",
];
export const RAMP = `linear-gradient(to right, ${VIRIDIS.join(", ")})`;

export const LINES = {
  own: { color: "#0072B2", dash: "", mark: "circle" },
  aggregate: { color: "#D55E00", dash: "9 3", mark: "square" },
  closest: { color: "#56B4E9", dash: "12 3 3 3", mark: "up" },
  farthest: { color: "#E69F00", dash: "4 3", mark: "down" },
  depth: { color: "#009E73", dash: "6 4", mark: "diamond" },
  random: { color: "#6f6f6f", dash: "2 3", mark: "cross" },
};

function channels(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

const STOPS = VIRIDIS.map(channels);

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
