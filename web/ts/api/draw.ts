import type { Grounded } from "../wire/types.js";

/** Style of boxes, quads and points. Absent sizes follow from the picture's size, as in the original. */
export interface DrawStyle {
  /** Colours of the names, in order. */
  colors?: readonly string[];
  /** Width of lines, in pixels of the picture. A point is a disc with a radius of two widths. */
  lineWidth?: number;
  /** Size of names, in pixels of the picture; 0 draws no names. */
  fontSize?: number;
}

/** Colours that are distinct on photos and from each other, also for colour-blind users. */
const COLORS = ["#e6194b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#f032e6", "#3c7a1e"];

/**
 * Draws a picture and the objects in it, with their names. The canvas takes the picture's size, because objects are in its pixels.
 *
 * @param image the picture at its full size; `null` draws on the current content of the canvas
 * @param objects the objects of this picture; those without `pixels` are not drawn
 */
export function drawBoxes(
  canvas: HTMLCanvasElement | OffscreenCanvas,
  image: ImageBitmap | HTMLImageElement | HTMLCanvasElement | OffscreenCanvas | null,
  objects: readonly Grounded[],
  style: DrawStyle = {},
): void {
  if (image) {
    canvas.width = "naturalWidth" in image ? image.naturalWidth : image.width;
    canvas.height = "naturalHeight" in image ? image.naturalHeight : image.height;
  }
  const context = canvas.getContext("2d") as CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D | null;
  if (!context) throw new TypeError("the canvas has a context of another kind: expected none or 2d");
  if (image) context.drawImage(image, 0, 0);

  const side = Math.sqrt(canvas.width * canvas.height);
  const fontSize = style.fontSize ?? Math.max(Math.floor(side / 30), 9);
  const lineWidth = style.lineWidth ?? Math.max(Math.round(side / 160), 2);
  const colors = style.colors ?? COLORS;
  const names: (string | undefined)[] = [];
  context.lineWidth = lineWidth;
  context.lineJoin = "round";
  context.font = `600 ${fontSize}px system-ui, sans-serif`;
  context.textBaseline = "top";

  for (const object of objects) {
    if (!object.pixels) continue;
    // Each object without a name gets a new colour.
    let index = object.ref === undefined ? -1 : names.indexOf(object.ref);
    if (index < 0) index = names.push(object.ref) - 1;
    const color = colors[index % colors.length] ?? "red";
    context.beginPath();
    let corners: Corners;
    if (object.kind === "point") {
      const [x, y] = object.pixels;
      const radius = 2 * lineWidth;
      corners = boxCorners([x - radius, y - radius, x + radius, y + radius]);
      context.fillStyle = color;
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.fill();
    } else {
      corners = object.kind === "box" ? boxCorners(object.pixels) : object.pixels;
      context.strokeStyle = color;
      for (const [x, y] of corners) context.lineTo(x, y);
      context.closePath();
      context.stroke();
    }
    if (object.ref && fontSize > 0) drawName(context, object.ref, corners, color, fontSize);
  }
}

type Corners = readonly (readonly [number, number])[];

function boxCorners([x1, y1, x2, y2]: readonly [number, number, number, number]): Corners {
  return [
    [x1, y1],
    [x2, y1],
    [x2, y2],
    [x1, y2],
  ];
}

/** Draws the name on a plate at the top left, above the shape if there is room. */
function drawName(
  context: CanvasRenderingContext2D | OffscreenCanvasRenderingContext2D,
  name: string,
  corners: Corners,
  color: string,
  fontSize: number,
): void {
  const pad = Math.ceil(fontSize / 4);
  const width = context.measureText(name).width + 2 * pad;
  const height = fontSize + 2 * pad;
  const left = Math.min(...corners.map(([x]) => x)) - context.lineWidth / 2;
  const top = Math.min(...corners.map(([, y]) => y)) - context.lineWidth / 2;
  const x = Math.max(Math.min(left, context.canvas.width - width), 0);
  const y = top >= height ? top - height : top;
  context.fillStyle = color;
  context.fillRect(x, y, width, height);
  context.fillStyle = "#fff";
  context.fillText(name, x + pad, y + pad);
}
