// A batch on a canvas: a strip of items, laid out in tiles of whole pixels.

export function load(base64) {
  const image = new Image();
  image.src = `data:image/png;base64,${base64}`;
  return image.decode().then(() => image);
}

export function columnsOf(n, item) {
  return Math.min(n, Math.max(1, Math.ceil(Math.sqrt((n * item.height) / item.width))));
}

export class Picture {
  constructor(canvas, chosen) {
    this.canvas = canvas;
    this.shown = null;
    this.item = { width: 1, height: 1 };
    this.n = 1;
    this.mark = null;
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
    canvas.addEventListener("pointermove", (event) => chosen(this.at(event)));
    canvas.addEventListener("pointerleave", () => chosen(null));
    canvas.addEventListener("blur", () => chosen(null));
    canvas.addEventListener("keydown", (event) => {
      const columns = columnsOf(this.n, this.item);
      const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
      if (!by) return;
      event.preventDefault();
      chosen(this.mark === null ? 0 : Math.min(this.n - 1, Math.max(0, this.mark + by)));
    });
  }

  show(image, n, item) {
    Object.assign(this, { shown: image, n, item });
    this.draw();
  }

  clear() {
    this.shown = null;
    this.draw();
  }

  measure() {
    const columns = columnsOf(this.n, this.item);
    const rows = Math.ceil(this.n / columns);
    const ratio = window.devicePixelRatio || 1;
    const gap = Math.round(3 * ratio);
    const room = Math.floor(this.canvas.parentElement.clientWidth * ratio);
    const width = Math.max(1, Math.floor((room - gap * (columns - 1)) / columns));
    const height = Math.max(1, Math.round((width * this.item.height) / this.item.width));
    return { columns, rows, gap, width, height, room, tall: rows * height + gap * (rows - 1) };
  }

  draw() {
    const { columns, gap, width, height, room, tall } = this.measure();
    if (room < 2) return;
    if (this.canvas.width !== room || this.canvas.height !== tall) Object.assign(this.canvas, { width: room, height: tall });
    const pen = this.canvas.getContext("2d");
    pen.clearRect(0, 0, room, tall);
    if (!this.shown) return;
    paint(pen, this.shown, this.n, this.item, { columns, gap, width, height, left: 0, top: 0 });
    if (this.mark !== null && this.mark < this.n) {
      const line = Math.max(2, Math.round(gap));
      pen.strokeStyle = getComputedStyle(this.canvas).color;
      pen.lineWidth = line;
      const x = (this.mark % columns) * (width + gap);
      const y = Math.floor(this.mark / columns) * (height + gap);
      pen.strokeRect(x + line / 2, y + line / 2, width - line, height - line);
    }
  }

  at(event) {
    const { columns, gap, width, height } = this.measure();
    const ratio = this.canvas.width / this.canvas.clientWidth;
    const column = Math.floor((event.offsetX * ratio) / (width + gap));
    const item = Math.floor((event.offsetY * ratio) / (height + gap)) * columns + column;
    return column < columns && item >= 0 && item < this.n ? item : null;
  }
}

/** Paint a strip of n items as tiles at a place of a canvas. */
export function paint(pen, strip, n, item, { columns, gap, width, height, left, top }) {
  pen.imageSmoothingEnabled = item.width > width;
  for (let i = 0; i < n; i += 1) {
    const x = left + (i % columns) * (width + gap);
    const y = top + Math.floor(i / columns) * (height + gap);
    pen.drawImage(strip, 0, i * item.height, item.width, item.height, x, y, width, height);
  }
}
