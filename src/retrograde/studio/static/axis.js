// The sigma axis: noise at the left, data at the right, as the run goes. Levels of recipes can be dragged.

import { element } from "./form.js";

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 44, RIGHT = 34, TOP = 16, PLOT = 150, LANES = [208, 250];
const LEAST = 1.02; // neighbours stay this factor apart

export function short(sigma) {
  if (sigma === null) return "∞";
  return sigma >= 100 ? sigma.toFixed(0) : String(Number(sigma.toPrecision(3)));
}

function svg(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export class Axis {
  constructor(root, { moved, chosen }) {
    Object.assign(this, { root, moved, chosen, range: { low: 0.01, high: 100 }, sides: [null, null], held: null, step: null });
    this.drawing = root.appendChild(svg("svg", { "aria-hidden": "true" }));
    this.bubble = root.appendChild(element("div", { className: "bubble", hidden: true }));
    this.handles = [[], []];
    new ResizeObserver(() => this.draw()).observe(root);
  }

  get width() {
    return Math.max(120, this.root.clientWidth - LEFT - RIGHT);
  }

  x(sigma) {
    const { low, high } = this.range;
    const part = sigma === null ? 0 : Math.log(high / Math.max(sigma, low)) / Math.log(high / low);
    return LEFT + Math.max(0, part) * this.width;
  }

  sigma(x) {
    const { low, high } = this.range;
    return high * (low / high) ** Math.min(1, Math.max(0, (x - LEFT) / this.width));
  }

  /** Show a plan's levels; `rows` are distances of the data mean from the reference, by row. */
  show(side, plan, rows = null, late = false) {
    if ((this.held?.side === side || late) && plan && this.sides[side]) {
      this.sides[side].answer = plan; // the hand decides where the levels are, not an answer that is behind it
      return;
    }
    const old = rows ? { plan, rows } : plan && !plan.stochastic ? this.sides[side]?.judged : null;
    this.sides[side] = plan && { plan, judged: old ?? null, levels: plan.levels?.map((level) => ({ ...level })) ?? null };
    this.place(side);
    this.draw();
  }

  judge(side, rows) {
    const shown = this.sides[side];
    if (shown) shown.judged = { plan: shown.answer ?? shown.plan, rows };
    this.draw();
  }

  at(step) {
    this.step = step;
    this.draw();
  }

  place(side) {
    const levels = this.sides[side]?.levels ?? [];
    const handles = this.handles[side];
    while (handles.length > levels.length) handles.pop().remove();
    while (handles.length < levels.length) handles.push(this.handle(side, handles.length));
    if (this.focus?.side === side) {
      handles[Math.min(this.focus.index, handles.length - 1)]?.focus();
      this.focus = null;
    }
  }

  handle(side, index) {
    const name = "AB"[side];
    const made = element("div", { className: `level ${name.toLowerCase()}`, tabIndex: 0, role: "slider" });
    made.setAttribute("aria-orientation", "horizontal");
    made.setAttribute("aria-describedby", "axis-help");
    made.addEventListener("pointerdown", (event) => {
      made.setPointerCapture(event.pointerId);
      made.classList.add("held");
      this.held = { side, index, pointer: true };
      made.focus();
      event.preventDefault();
    });
    made.addEventListener("pointermove", (event) => {
      if (!this.held?.pointer || this.held.side !== side || this.held.index !== index) return;
      this.move(side, index, this.sigma(event.clientX - this.root.getBoundingClientRect().left));
    });
    const drop = () => {
      made.classList.remove("held");
      this.held = null;
      const shown = this.sides[side];
      if (shown?.answer) Object.assign(shown, { plan: shown.answer, answer: undefined });
      this.draw();
    };
    made.addEventListener("pointerup", drop);
    made.addEventListener("pointercancel", drop);
    for (const event of ["focus", "blur", "pointerenter", "pointerleave"]) made.addEventListener(event, () => this.draw());
    made.addEventListener("keydown", (event) => this.key(event, side, index));
    return this.root.appendChild(made);
  }

  key(event, side, index) {
    const now = this.sides[side].levels[index].sigma ?? this.range.high;
    const factor = event.shiftKey ? 1.01 : 1.08;
    const to = {
      ArrowLeft: now * factor,
      ArrowUp: now * factor,
      ArrowRight: now / factor,
      ArrowDown: now / factor,
      PageUp: now * 1.5,
      PageDown: now / 1.5,
      Home: Infinity,
      End: 0,
    }[event.key];
    if (to !== undefined) this.move(side, index, to);
    else if (event.key === "Delete" || event.key === "Backspace") this.remove(side, index);
    else if (event.key === "Insert" || event.key === "+") this.add(side, index);
    else return;
    event.preventDefault();
  }

  /** Move a level, as far as its neighbours let it. */
  move(side, index, sigma) {
    const { levels } = this.sides[side];
    const above = index ? (levels[index - 1].sigma ?? this.range.high) / LEAST : this.range.high;
    const below = index + 1 < levels.length ? levels[index + 1].sigma * LEAST : this.range.low;
    const to = Math.min(above, Math.max(below, sigma));
    if (to === levels[index].sigma) return;
    levels[index] = { sigma: to };
    this.draw();
    this.moved(side, levels, false);
  }

  add(side, index) {
    const { levels } = this.sides[side];
    const here = levels[index].sigma ?? this.range.high;
    const next = levels[index + 1]?.sigma ?? this.range.low;
    if (here / next < LEAST ** 2) return;
    levels.splice(index + 1, 0, { sigma: Math.sqrt(here * next) });
    this.focus = { side, index: index + 1 };
    this.place(side);
    this.moved(side, levels, true);
  }

  remove(side, index) {
    const { levels } = this.sides[side];
    if (levels.length < 2) return;
    levels.splice(index, 1);
    this.focus = { side, index };
    this.place(side);
    this.moved(side, levels, true);
  }

  draw() {
    const parts = [];
    const { low, high } = this.range;
    for (let k = Math.ceil(Math.log10(low) - 1e-9); k <= Math.log10(high) + 1e-9; k += 1) {
      const x = this.x(10 ** k);
      parts.push(svg("line", { class: "faint", x1: x, x2: x, y1: TOP, y2: LANES[1] + 16 }));
      parts.push(svg("text", { x, y: TOP + PLOT + 14, "text-anchor": "middle" }, k > 3 || k < -3 ? `1e${k}` : String(Number((10 ** k).toPrecision(2)))));
    }
    for (const sigma of [high, low]) {
      const decade = 10 ** Math.round(Math.log10(sigma));
      const labelled = decade <= high * 1.001 && decade >= low * 0.999;
      if (labelled && Math.abs(this.x(sigma) - this.x(decade)) < 30) continue;
      parts.push(svg("text", { x: this.x(sigma), y: TOP + PLOT + 14, "text-anchor": "middle" }, short(sigma)));
    }
    parts.push(svg("text", { x: LEFT + this.width + 22, y: TOP + PLOT + 14, "font-style": "italic" }, "σ"));
    this.curves(parts);
    this.sides.forEach((shown, side) => this.lane(parts, shown, side));
    this.drawing.replaceChildren(...parts);
    this.tell();
  }

  curves(parts) {
    const found = this.sides.flatMap((shown) => shown?.judged?.rows ?? []).filter((value) => value > 0);
    const top = found.length ? Math.max(...found) * 1.15 : 1;
    const bottom = found.length ? Math.min(...found) / 1.15 : 0.01;
    const y = (value) => TOP + (PLOT * Math.log(top / Math.max(value, bottom))) / Math.log(top / bottom);
    for (let k = Math.floor(Math.log10(bottom)); k <= Math.log10(top); k += 1) {
      for (const m of top / bottom < 30 ? [1, 2, 5] : [1]) {
        const value = m * 10 ** k;
        if (!found.length || value > top || value < bottom) continue;
        parts.push(svg("line", { class: "faint", x1: LEFT, x2: LEFT + this.width, y1: y(value), y2: y(value) }));
        parts.push(svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, String(Number(value.toPrecision(2)))));
      }
    }
    parts.push(svg("line", { class: "rule", x1: LEFT, x2: LEFT + this.width, y1: TOP + PLOT, y2: TOP + PLOT }));
    const words = found.length ? "rms distance of the data mean from the reference sample" : "the error appears here once the reference is there";
    parts.push(svg("text", { x: LEFT + this.width, y: TOP - 4, "text-anchor": "end" }, words));
    this.sides.forEach((shown, side) => {
      if (!shown?.judged) return;
      const { plan, rows } = shown.judged;
      const name = `${"ab"[side]}${plan === (shown.answer ?? shown.plan) ? "" : " old"}`;
      const places = this.places(plan, rows, y);
      parts.push(svg("polyline", { class: `curve ${name}`, points: places.map(({ x, y: v }) => `${x},${v}`).join(" ") }));
      for (const { x, y: v, row } of places) {
        const now = row === this.step?.[side];
        parts.push(svg("circle", { class: `dot ${name}${now ? " now" : ""}`, cx: x, cy: v, r: now ? 5 : 3.2 }));
      }
    });
  }

  places(plan, rows, y) {
    let asked = -1;
    const found = [];
    plan.times.forEach((asks, row) => {
      if (!asks) return;
      asked += 1;
      found.push({ x: this.x(plan.asked[asked].sigma), y: y(rows[row]), row });
    });
    return found;
  }

  lane(parts, shown, side) {
    const y = LANES[side], name = "ab"[side];
    if (!shown) return;
    parts.push(svg("line", { class: "rule", x1: LEFT, x2: LEFT + this.width, y1: y, y2: y }));
    parts.push(svg("text", { class: `name ${name}`, x: 14, y: y + 4 }, "AB"[side]));
    for (const { sigma } of shown.plan.asked) {
      const x = this.x(sigma);
      parts.push(svg("line", { class: `tick ${name}`, x1: x, x2: x, y1: y - 8, y2: y + 8 }));
    }
    if (!shown.levels) parts.push(svg("text", { x: LEFT + this.width, y: y - 12, "text-anchor": "end" }, "fitted or loaded: its levels belong to its coefficients"));
    this.handles[side].forEach((handle, index) => {
      const { sigma } = shown.levels[index];
      handle.style.left = `${this.x(sigma)}px`;
      handle.style.top = `${y}px`;
      const text = `sigma ${short(sigma)}`;
      handle.setAttribute("aria-label", `Level ${index + 1} of ${shown.levels.length} of plan ${"AB"[side]}`);
      handle.setAttribute("aria-valuetext", text);
      handle.setAttribute("aria-valuenow", String(sigma ?? this.range.high));
      handle.setAttribute("aria-valuemin", String(this.range.low));
      handle.setAttribute("aria-valuemax", String(this.range.high));
    });
  }

  tell() {
    const found = this.handles.flat().find((handle) => handle.matches(".held")) ?? this.handles.flat().find((handle) => handle.matches(":hover, :focus"));
    this.bubble.hidden = !found;
    if (!found) return;
    this.bubble.textContent = found.getAttribute("aria-valuetext").replace("sigma", "σ");
    this.bubble.style.left = found.style.left;
    this.bubble.style.top = `${parseFloat(found.style.top) - 19}px`;
  }
}
