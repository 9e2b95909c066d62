// What is said beside the pictures: figures, the table, trails of errors, how a fit did.

import { element } from "./form.js";

export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "";
  return value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5) ? value.toExponential(digits - 1) : String(Number(value.toPrecision(digits)));
}

export function figures(root, { main, facts, item }) {
  root.replaceChildren();
  if (main) root.append(element("span", {}, element("b", {}, main[0]), ` ${main[1]}`));
  for (const fact of facts ?? []) root.append(element("span", {}, fact));
  if (item) root.append(element("span", { className: "item" }, item));
}

const LISTS = new Set(["states", "outputs", "noises", "knobs", "shift", "correction"]);

export function table(root, about, plan, catalogue, side, chosen) {
  root.classList.toggle("of-b", side === 1);
  if (!plan) {
    about.textContent = "";
    root.replaceChildren();
    return;
  }
  const kind = plan.stochastic ? "draws noise" : "deterministic";
  const misses = plan.misses.length ? `, misses: ${plan.misses.join(", ")}` : "";
  about.textContent = `${plan.recipe}, ${plan.nfe} evaluations, basis ${plan.basis}, path ${plan.path}, ${kind}${misses}`;
  const kinds = plan.columns.map((column) => (LISTS.has(column) ? "list" : ""));
  const head = plan.columns.map((column, i) => element("th", { scope: "col", title: catalogue.columns[column] ?? "", className: kinds[i] }, column));
  const rows = plan.rows.map((cells, row) => {
    const made = element("tr", {}, ...cells.map((cell, i) => element("td", { className: kinds[i] }, cell)));
    made.addEventListener("click", () => chosen(row));
    return made;
  });
  root.replaceChildren(element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)));
}

export function highlight(root, row) {
  root.querySelectorAll("tbody tr").forEach((line, i) => {
    line.classList.toggle("now", i === row);
    if (i === row) line.setAttribute("aria-current", "step");
    else line.removeAttribute("aria-current");
  });
}

/** The errors that levels moved by hand had, the least of them marked. */
export function trail(side, tries, back) {
  const name = "AB"[side];
  const values = tries.map(({ rms }) => rms);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const x = (i) => (118 * i) / Math.max(1, values.length - 1) + 1;
  const y = (v) => (most > least ? 23 - (21 * Math.log(v / least)) / Math.log(most / least) : 13);
  const best = values.indexOf(least);
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  drawing.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(drawing.namespaceURI, "polyline");
  line.setAttribute("points", values.map((v, i) => `${x(i)},${y(v)}`).join(" "));
  const dot = document.createElementNS(drawing.namespaceURI, "circle");
  for (const [key, value] of Object.entries({ cx: x(best), cy: y(least), r: 3.5 })) dot.setAttribute(key, value);
  drawing.append(line, dot);
  const last = values[values.length - 1];
  const button = element("button", { type: "button", disabled: last <= least }, "Back to the best");
  button.addEventListener("click", () => back(tries[best].levels));
  const text = element("span", {}, `Error of ${name}: began at ${number(values[0])}, now `, element("b", {}, number(last)), `, best ${number(least)}`);
  return element("div", { className: `trail ${name.toLowerCase()}` }, drawing, text, button);
}

export function race(root, report) {
  if (!report) {
    root.replaceChildren();
    return;
  }
  const entries = [["This plan", report.error, report.nfe, true]];
  for (const key of ["best_recipe", "best_recipe_at_twice"]) {
    const found = report[key];
    if (found) entries.push([`Best published: ${found.recipe} on ${found.grid}`, found.error, found.nfe, false]);
  }
  const most = Math.max(...entries.map(([, error]) => error));
  const lines = entries.flatMap(([label, error, nfe, fitted]) => {
    const bar = element("i", { className: fitted ? "fitted" : "" });
    bar.style.width = `${(100 * error) / most}%`;
    return [element("span", { className: "name" }, `${label}, ${nfe} ev.`), bar, element("b", {}, number(error))];
  });
  const took = `Error on noise the fit never saw. The search took ${number(report.seconds, 2)} s and ${Math.round(report.evaluations).toLocaleString("en")} evaluations.`;
  const worse = report.returned === "fitted" ? "" : ` Returned: ${report.returned}.`;
  root.replaceChildren(element("div", { className: "races" }, ...lines), element("p", { className: "about" }, took + worse));
}
