// Files a person takes along: pictures, plans, Python lines.

import { ask } from "./wire.js";
import { columnsOf, paint } from "./picture.js";

export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export async function savePlan(shown, side) {
  const answer = await ask(`/api/export/plan?side=${side}`, shown, { raw: true });
  const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition"))?.[1] ?? "plan.json";
  download(await answer.blob(), name);
  return name;
}

/** Draw what the page shows on one sheet, in whole pixels, each part under its words. */
export async function savePicture(parts, n, item, name) {
  const scale = Math.max(1, Math.round(84 / item.width));
  const columns = columnsOf(n, item);
  const [gap, margin, above] = [3, 16, 46];
  const [width, height] = [item.width * scale, item.height * scale];
  const each = columns * (width + gap) - gap;
  const tall = Math.ceil(n / columns) * (height + gap) - gap;
  const sheet = document.createElement("canvas");
  sheet.width = parts.length * (each + margin) + margin;
  sheet.height = tall + above + margin;
  const pen = sheet.getContext("2d");
  pen.fillStyle = "#ffffff";
  pen.fillRect(0, 0, sheet.width, sheet.height);
  parts.forEach(({ strip, title, words }, i) => {
    const left = margin + i * (each + margin);
    pen.fillStyle = "#26211c";
    pen.font = "600 15px system-ui, sans-serif";
    pen.fillText(title, left, 19, each);
    pen.font = "13px system-ui, sans-serif";
    pen.fillText(words, left, 37, each);
    paint(pen, strip, n, item, { columns, gap, width, height, left, top: above });
  });
  const blob = await new Promise((done) => sheet.toBlob(done, "image/png"));
  download(blob, name);
}

export async function readFiles(files) {
  return Promise.all(
    [...files].map(
      (file) =>
        new Promise((done, failed) => {
          const reader = new FileReader();
          reader.onload = () => done({ name: file.name, content: reader.result.split(",", 2)[1] ?? "" });
          reader.onerror = () => failed(reader.error);
          reader.readAsDataURL(file);
        }),
    ),
  );
}
