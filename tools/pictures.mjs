// Draws the pictures that ship with the page: its icons, and the gallery pictures that are not photos. The results are committed.
//   node tools/pictures.mjs CHROMIUM

import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { launch } from "../pkg-tests/browser.mjs";

const repository = new URL("../", import.meta.url);
const pub = new URL("www/public/", repository);
const icon = await readFile(new URL("icon.svg", pub), "utf8");
const atlas = `data:image/png;base64,${await readFile(new URL("crates/world/assets/atlas.png", repository), "base64")}`;

const sign = (x, y, width, text, color) => `
  <rect x="${x}" y="${y}" width="${width}" height="74" rx="10" fill="${color}" stroke="#fff" stroke-width="5"/>
  <text x="${x + width / 2}" y="${y + 52}" font-size="44" text-anchor="middle" fill="#fff">${text}</text>`;
const STREET = `
  <svg xmlns="http://www.w3.org/2000/svg" width="640" height="480" font-family="DejaVu Sans, sans-serif" font-weight="700">
    <rect width="640" height="480" fill="#bfe0f7"/><rect y="370" width="640" height="110" fill="#6f767e"/>
    <rect y="350" width="640" height="26" fill="#c9cdd2"/>
    <rect x="156" y="70" width="18" height="300" fill="#5b5f66"/><rect x="466" y="150" width="18" height="220" fill="#5b5f66"/>
    ${sign(40, 60, 250, "STATION", "#1763b6")}${sign(40, 150, 250, "PARK", "#17803d")}
    <polygon points="430,60 520,60 570,110 570,190 520,240 430,240 380,190 380,110" fill="#c81e2d" stroke="#fff" stroke-width="8"/>
    <text x="475" y="168" font-size="52" text-anchor="middle" fill="#fff">STOP</text>
    ${[0, 1, 2, 3].map((at) => `<rect x="${30 + at * 165}" y="418" width="95" height="14" fill="#fff"/>`).join("")}
  </svg>`;
const DISHES = [
  ["Noodle soup", "8"],
  ["Fried rice", "7"],
  ["Green tea", "3"],
  ["Lemon cake", "5"],
];
const MENU = `
  <svg xmlns="http://www.w3.org/2000/svg" width="480" height="600" font-family="DejaVu Serif, serif">
    <rect width="480" height="600" fill="#efe3cc"/><rect x="24" y="24" width="432" height="552" fill="#fffaf0" stroke="#7a5c35" stroke-width="4"/>
    <text x="240" y="110" font-size="54" font-weight="700" text-anchor="middle" fill="#5b3d1a">MENU</text>
    <line x1="90" y1="140" x2="390" y2="140" stroke="#7a5c35" stroke-width="3"/>
    ${DISHES.map(
      ([name, price], at) => `<text x="62" y="${218 + at * 84}" font-size="33" fill="#222">${name}</text>
      <text x="418" y="${218 + at * 84}" font-size="33" text-anchor="end" fill="#222">$${price}</text>`,
    ).join("")}
    <text x="240" y="545" font-size="22" text-anchor="middle" fill="#7a5c35">Open from 11 to 22</text>
  </svg>`;
/** Places in the atlas of dog, house and apple, and where they stand: a picture of the embedded model's world. */
const SCENE_ITEMS = [
  [18, 20, 270, 150],
  [59, 272, 248, 160],
  [0, 150, 28, 145],
];
const SCENE = `<div style="position:relative;width:448px;height:448px;background:rgb(170 232 236);overflow:hidden">
  ${SCENE_ITEMS.map(
    ([kind, x, y, side]) => `<div style="position:absolute;left:${x}px;top:${y}px;width:${side}px;height:${side}px;
    background:url(${atlas}) ${((kind % 12) / 11) * 100}% ${(Math.floor(kind / 12) / 7) * 100}%/1200% 800%"></div>`,
  ).join("")}</div>`;
const scaled = (side) => icon.replace("<svg ", `<svg width="${side}" height="${side}" `);
const maskable = `<div style="width:512px;height:512px;background:#5b4bdb;padding:80px;box-sizing:border-box">${scaled(352)}</div>`;

const browser = await launch({ name: "chromium", program: process.argv[2] ?? "chromium" });
try {
  const page = await browser.newPage();
  const draw = async (file, html, width, height) => {
    await page.setViewport({ width, height });
    await page.setContent(`<body style="margin:0;background:transparent;line-height:0">${html}`);
    await writeFile(fileURLToPath(new URL(file, pub)), await page.screenshot({ omitBackground: true, type: "png" }));
  };
  await draw("icon-192.png", scaled(192), 192, 192);
  await draw("icon-512.png", scaled(512), 512, 512);
  await draw("icon-maskable-512.png", maskable, 512, 512);
  await draw("gallery/scene.png", SCENE, 448, 448);
  await draw("gallery/street.png", STREET, 640, 480);
  await draw("gallery/menu.png", MENU, 480, 600);
} finally {
  await browser.close();
}
