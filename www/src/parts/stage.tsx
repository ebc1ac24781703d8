/** The picture on the stage, with the objects of an answer drawn on it and listed below. */

import { useEffect, useRef, useState } from "preact/hooks";
import { drawBoxes, type Box, type Grounded } from "qwen-vl-web";
import { encoded } from "../state/ahead";
import {
  chooseRegion,
  choosingRegion,
  exampleId,
  highlighted,
  pending,
  pictures,
  region,
  showPicture,
  stage,
  type ShownObject,
} from "../state/chat";
import { isLater, model } from "../state/model";
import { fail } from "../state/notices";
import { encode, type Picture } from "../state/pictures";
import { change, resolution, RESOLUTIONS, resolutionTokens, type Resolution } from "../state/settings";
import { texts } from "../texts";
import { focusQuestion } from "./composer";
import { save } from "./files";
import { Icon } from "./icons";
import { RegionChooser } from "./region";
import "./stage.css";

export function Stage() {
  const t = texts.value;
  const { picture, number, objects } = stage.value;
  return (
    <section class="stage" aria-label={t.stage}>
      {picture ? (
        <div class="frame">
          <figure>
            <div class="view">
              <Canvas key={picture.id} picture={picture} number={number} objects={objects} />
            </div>
            {choosingRegion.value && <figcaption class="hint">{t.regionHint}</figcaption>}
            {!choosingRegion.value && exampleId.value === picture.id && <figcaption class="hint">{t.example}</figcaption>}
          </figure>
          {pictures.value.length > 1 && <Thumbnails shown={picture} />}
        </div>
      ) : (
        <p class="invitation">{t.drop}</p>
      )}
      {picture && isLater.value && <Size picture={picture} />}
      {picture && objects.length > 0 && <Objects picture={picture} objects={objects} />}
    </section>
  );
}

function Thumbnails({ shown }: { shown: Picture }) {
  const t = texts.value;
  return (
    <ol class="list thumbs" aria-label={t.pictures}>
      {pictures.value.map((picture, index) => (
        <li key={picture.id}>
          <button
            type="button"
            class="thumbnail"
            data-video={picture.video ? "" : undefined}
            aria-label={t.pictureNamed(index + 1, picture.name)}
            aria-current={picture === shown}
            onClick={() => showPicture(picture)}
          >
            <img src={picture.url} alt="" width="48" height="48" />
            <span aria-hidden="true">{index + 1}</span>
          </button>
        </li>
      ))}
    </ol>
  );
}

/** The size in which the model sees a picture, and the choice of the resolution for the next questions. */
function Size({ picture }: { picture: Picture }) {
  const t = texts.value;
  const info = model.value!.info;
  const made = encoded.value.get(picture.id);
  return (
    <div class="size">
      <span data-testid="seen">{made ? t.seen(made.seen, made.tokens) : "…"}</span>
      {/* Videos have their own size. */}
      {!picture.video && (
        <label>
          <span class="wide-only">{t.resolution}</span>
          <select
            data-testid="resolution"
            value={resolution.value}
            onChange={(event) => change({ resolution: event.currentTarget.value as Resolution })}
          >
            {RESOLUTIONS.map((name) => (
              <option key={name} value={name}>
                {name === "auto" ? t.resolutions.auto : t.resolutionTokens(t.resolutions[name], resolutionTokens(name, info))}
              </option>
            ))}
          </select>
        </label>
      )}
    </div>
  );
}

const grounded = (objects: readonly ShownObject[]): Grounded[] => objects.map(({ object }) => object);

function Canvas({ picture, number, objects }: { picture: Picture; number: number; objects: readonly ShownObject[] }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [bitmap, setBitmap] = useState<ImageBitmap>();
  useEffect(() => {
    let gone = false;
    let made: ImageBitmap | undefined;
    createImageBitmap(picture.blob).then((decoded) => {
      made = decoded;
      if (gone) decoded.close();
      else setBitmap(decoded);
    }, fail);
    return () => {
      gone = true;
      made?.close();
    };
  }, []);
  useEffect(() => {
    if (canvas.current && bitmap) drawBoxes(canvas.current, bitmap, grounded(objects));
  }, [bitmap, objects]);

  const { width, height } = picture;
  const pendingRegion = pending.value.includes(picture) || !choosingRegion.value ? region.value : undefined;
  const last = pictures.value[pictures.value.length - 1] === picture;
  return (
    <div class="canvas" style={{ aspectRatio: `${width} / ${height}`, "--ratio": String(width / height) }}>
      <canvas
        ref={canvas}
        data-testid="canvas"
        data-picture={picture.id}
        width={width}
        height={height}
        role="img"
        aria-label={texts.value.pictureNamed(number, picture.name)}
      />
      {choosingRegion.value ? (
        <RegionChooser
          onChosen={(box) => {
            chooseRegion(box);
            focusQuestion();
          }}
        />
      ) : (
        <svg class="shapes" viewBox={`0 0 ${width} ${height}`} preserveAspectRatio="none" aria-hidden="true">
          {objects.map(({ object, index }) => (
            <Shape key={index} object={object} index={index} radius={Math.sqrt(width * height) / 80} />
          ))}
          {pendingRegion && last && <RegionShape box={pendingRegion} width={width} height={height} />}
        </svg>
      )}
    </div>
  );
}

/** Highlights an object under the pointer. For keyboards and screen readers, the list below does the same. */
function Shape({ object, index, radius }: { object: Grounded; index: number; radius: number }) {
  if (!object.pixels) return null;
  const pointer = {
    class: highlighted.value === index ? "on" : "",
    onPointerEnter: () => (highlighted.value = index),
    onPointerLeave: () => (highlighted.value = undefined),
  };
  if (object.kind === "point") {
    const [x, y] = object.pixels;
    return <circle cx={x} cy={y} r={radius} {...pointer} />;
  }
  const corners = object.kind === "quad" ? object.pixels : boxCorners(object.pixels);
  return <polygon points={corners.map((corner) => corner.join()).join(" ")} {...pointer} />;
}

function RegionShape({ box, width, height }: { box: Box; width: number; height: number }) {
  const [x1, y1, x2, y2] = box;
  const scaled: Box = [(x1 / 1000) * width, (y1 / 1000) * height, (x2 / 1000) * width, (y2 / 1000) * height];
  return (
    <polygon
      class="region"
      points={boxCorners(scaled)
        .map((corner) => corner.join())
        .join(" ")}
    />
  );
}

function boxCorners([x1, y1, x2, y2]: Box): [number, number][] {
  return [
    [x1, y1],
    [x2, y1],
    [x2, y2],
    [x1, y2],
  ];
}

function Objects({ picture, objects }: { picture: Picture; objects: readonly ShownObject[] }) {
  const t = texts.value;
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(JSON.stringify(grounded(objects), null, 2));
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
  };
  return (
    <div class="objects">
      <ul class="list" aria-label={t.objects} data-testid="objects">
        {objects.map(({ object, index }) => (
          <li key={index} data-object={JSON.stringify(object)}>
            <button
              type="button"
              class={`object ${highlighted.value === index ? "on" : ""}`}
              onPointerEnter={() => (highlighted.value = index)}
              onPointerLeave={() => (highlighted.value = undefined)}
              onFocus={() => (highlighted.value = index)}
              onBlur={() => (highlighted.value = undefined)}
            >
              <strong>{object.ref ?? t.noName}</strong>
              <span>
                {t.objectKinds[object.kind]} {(object.pixels ?? object.norm).flat().join(", ")}
                {object.image === undefined && ` (${t.pictureUnknown})`}
              </span>
            </button>
          </li>
        ))}
      </ul>
      <div class="row">
        <button type="button" class="quiet" title={t.copyJson} data-testid="copy-json" onClick={() => copy().catch(fail)}>
          <Icon name="copy" /> <span class="wide-only">{copied ? t.copied : t.copyJson}</span>
        </button>
        <button
          type="button"
          class="quiet"
          title={t.download}
          data-testid="download"
          onClick={() => download(picture, grounded(objects)).catch(fail)}
        >
          <Icon name="download" /> <span class="wide-only">{t.download}</span>
        </button>
      </div>
    </div>
  );
}

async function download(picture: Picture, objects: readonly Grounded[]): Promise<void> {
  const bitmap = await createImageBitmap(picture.blob);
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  drawBoxes(canvas, bitmap, objects);
  bitmap.close();
  save(await encode(canvas), `${picture.name.replace(/\.[^.]*$/, "")}-boxes.png`);
}
