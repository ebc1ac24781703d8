// Memory bandwidths of GPUs as their makers publish them, by parts of the adapters' names.

/** GB/s. The names that docs/estimates.md has too have the same figures there. */
export const PUBLISHED = {
  "Radeon RX 6800": 512,
  "Radeon RX 7900 XTX": 960,
  "GeForce RTX 3060": 360,
  "GeForce RTX 4090": 1008,
  "Apple M2 Max": 400,
  "Intel Iris Xe": 68,
  "Tesla T4": 320,
  L4: 300,
  "A100-SXM4-40GB": 1555,
  "A100-SXM4-80GB": 2039,
  "H100 80GB HBM3": 3350,
  H200: 4800,
};

/** Words after a name that make it the name of another GPU. */
const OTHER_GPU = /^ (XT|Ti|SUPER|Laptop|Mobile|Max-Q|NVL)\b/i;

/** Returns the published bandwidth of an adapter in GB/s, or null. */
export function publishedBandwidth(adapter) {
  const name = ` ${adapter.replaceAll(/\((R|TM)\)/g, "")} `;
  for (const [known, bandwidth] of Object.entries(PUBLISHED)) {
    const at = name.indexOf(` ${known}`);
    const after = at < 0 ? "" : name.slice(at + 1 + known.length);
    if (at >= 0 && /^\W/.test(after) && !OTHER_GPU.test(after)) return bandwidth;
  }
  return null;
}

/** Returns the bandwidth that percentages refer to, and its source: the one that the user gave, else that of a copy, else the published one. */
export function chooseBandwidth({ given = null, copy = null, published = null }) {
  const [source, gigabytesPerSecond] = Object.entries({ given, copy, published }).find(([, value]) => value !== null) ?? ["unknown", null];
  return { gigabytesPerSecond, source, copy, published };
}
