import { attach } from "../state/chat";
import { fail } from "../state/notices";
import { pagePicture } from "../state/pictures";
import { texts } from "../texts";
import { Dialog, opened } from "./dialog";
import "./gallery.css";

/** Pictures of the page; gallery/README.md names their origins. The first visit starts with the first one. */
export const GALLERY = [
  { name: "scene", file: "gallery/scene.png" },
  { name: "cat", file: "gallery/cat.png" },
  { name: "rocket", file: "gallery/rocket.png" },
  { name: "street", file: "gallery/street.png" },
  { name: "menu", file: "gallery/menu.png" },
] as const;

export function Gallery() {
  const t = texts.value;
  const choose = async (file: string, name: string) => {
    opened.value = undefined;
    attach([await pagePicture(file, name)]);
  };
  return (
    <Dialog name="gallery" title={t.gallery}>
      <p>{t.galleryIntro}</p>
      <ul class="list gallery-list">
        {GALLERY.map(({ name, file }) => {
          const shown = t.galleryNames[name] ?? name;
          return (
            <li key={name}>
              <button type="button" data-testid={`gallery-${name}`} onClick={() => choose(file, shown).catch(fail)}>
                <img src={file} alt="" width="160" height="120" loading="lazy" />
                <span>{shown}</span>
              </button>
            </li>
          );
        })}
      </ul>
    </Dialog>
  );
}
