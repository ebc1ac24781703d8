// A film for tests of videos.

/** Records a film of about two seconds, whose colour changes, as `window.film`. A recorder on a busy machine leaves frames out. */
export async function recordFilm(page, width, height) {
  await page.evaluate(
    async (width, height) => {
      const canvas = Object.assign(document.createElement("canvas"), { width, height });
      const context = canvas.getContext("2d");
      const recorder = new MediaRecorder(canvas.captureStream(25), { mimeType: "video/webm" });
      const pieces = [];
      recorder.ondataavailable = ({ data }) => pieces.push(data);
      const ended = new Promise((resolve) => (recorder.onstop = resolve));
      recorder.start();
      for (let frame = 0; frame < 50; frame++) {
        context.fillStyle = `rgb(${frame * 5} 100 50)`;
        context.fillRect(0, 0, width, height);
        await new Promise((resolve) => setTimeout(resolve, 40));
      }
      recorder.stop();
      await ended;
      window.film = new Blob(pieces, { type: "video/webm" });
    },
    width,
    height,
  );
}
