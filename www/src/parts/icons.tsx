/** Icons, drawn for this page: 24 units wide, in the colour of the text. Screen readers skip them, because their buttons have names. */

const PATHS = {
  add: "M12 5v14M5 12h14",
  camera: "M4 8h3l2-3h6l2 3h3v11H4zM12 16.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7z",
  chat: "M4 5h16v11h-9l-4 4v-4H4z",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h11v11H9zM15 9V4H4v11h5",
  download: "M12 4v11M7 10.5l5 5 5-5M5 20h14",
  edit: "M4 20l1-4L16.5 4.5l3 3L8 19z",
  gallery: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15.5 9.5h.01",
  gear: "M4 7h9M17 7h3M4 17h3M11 17h9M15 4.5v5M9 14.5v5",
  model: "M12 3l8 4.5v9L12 21l-8-4.5v-9zM4 7.5l8 4.5 8-4.5M12 12v9",
  again: "M19 12a7 7 0 1 1-2-5M19 4v4h-4",
  scene: "M4 4h7v7H4zM16.5 11.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM12 21l4.5-8 4.5 8zM4 14h6M7 14v7",
  send: "M5 12h13M12 5.5l6.5 6.5-6.5 6.5",
  stop: "M7 7h10v10H7z",
  tasks: "M4 6h2M10 6h10M4 12h2M10 12h10M4 18h2M10 18h10",
  upload: "M12 16V5M7 9.5l5-5 5 5M5 20h14",
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" width="20" height="20" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
