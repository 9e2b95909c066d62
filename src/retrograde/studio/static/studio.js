// The page: keeps what a person asked for, sends it, and shows what comes back.

import { Axis, short } from "./axis.js";
import { SamplerForm, element } from "./form.js";
import { Picture, load } from "./picture.js";
import { figures, highlight, number, race, table, trail } from "./report.js";
import { download, readFiles, savePicture, savePlan } from "./save.js";
import { Jobs, Refused, ask } from "./wire.js";

const $ = (id) => document.getElementById(id);
const NONE = { plan: null, frames: [], sampled: null, judged: null, tries: [] };
const sides = [{ ...NONE }, { ...NONE }];
let catalogue, facts, forms, apart = null, batch = null, jobs = null, playing = null, busy = null;

const pictures = [...document.querySelectorAll("#stage canvas")].map((canvas) => new Picture(canvas, mark));
const [pictureA, pictureD, pictureB] = pictures;
const ofSide = [pictureA, pictureB];
const cards = [document.querySelector(".side.a"), document.querySelector(".side.b")];
const axis = new Axis($("axis"), { moved: (side, levels, recount) => forms[side].move(levels, recount) });
const compares = () => $("two").checked;

// --- asking -------------------------------------------------------------------------------------------------------

function readBatch() {
  const guidance = $("guidance").value === "" || $("guidance-field").hidden ? null : $("guidance").valueAsNumber;
  return {
    model: $("model").value,
    n: $("n").valueAsNumber,
    seed: $("seed").valueAsNumber,
    condition: $("condition-field").hidden ? "" : $("condition").value,
    guidance: guidance === 1 ? null : guidance,
    prompt: facts.reads.length ? $("prompt").value : "",
    negative: $("negative-field").hidden ? "" : $("negative").value,
  };
}

function samplers() {
  return forms.slice(0, compares() ? 2 : 1).map((form) => form.sampler);
}

function shown() {
  return { batch, samplers: samplers() };
}

function run() {
  if (!facts || !$("batch").reportValidity()) return;
  const asks = readBatch();
  if (JSON.stringify(asks) !== JSON.stringify(batch)) sides.forEach((side) => (side.tries = []));
  batch = asks;
  complain(null);
  if (!jobs.fitting) say("Sampling");
  jobs.run(shown());
}

function samplerChanged(side, byHand = false) {
  if (!byHand) sides[side].tries = [];
  run();
}

async function pickModel() {
  const name = $("model").value;
  say(`Loading ${name}`);
  try {
    facts = await ask(`/api/model?name=${encodeURIComponent(name)}`);
  } catch (error) {
    return complain(error);
  }
  const { width, height } = facts.item;
  const digits = facts.classes ? `, classes 0 to ${facts.classes - 1}` : "";
  $("facts").textContent = `${facts.shape.join("×")} on path ${facts.path.name}, predicts ${facts.predicts}${digits}`;
  $("condition-field").hidden = facts.typed.length === 0;
  $("guidance-field").hidden = facts.conditions.length === 0;
  $("prompt-field").hidden = facts.reads.length === 0;
  offerNegative();
  $("condition").placeholder = facts.classes ? `none, or 3, or 0-${facts.classes - 1}` : "none, or name=3";
  Object.assign(axis, { range: facts.sigma });
  pictures.forEach((picture) => Object.assign(picture, { item: { width, height } }));
  sides.forEach((side, i) => {
    Object.assign(side, structuredClone(NONE));
    axis.show(i, null);
    ofSide[i].clear();
  });
  apart = null;
  pictureD.clear();
  forms.forEach((form) => {
    // A plan or a level by hand belongs to the path it was made on.
    if (form.sampler.plan || form.sampler.levels) form.sampler = { ...form.sampler, plan: null, levels: null, nfe: form.sampler.nfe ?? 8 };
    form.refresh();
  });
  run();
  await listPlans();
}

/** A text to lead away from needs a weight of guidance that leads. */
function offerNegative() {
  const guided = $("guidance").value !== "" && $("guidance").valueAsNumber !== 1;
  $("negative-field").hidden = !guided || !facts?.reads.length;
}

async function listPlans() {
  const plans = await ask("/api/plans").catch(() => []);
  forms.forEach((form) => form.offer(plans, facts.path.fingerprint));
}

// --- what comes back ----------------------------------------------------------------------------------------------

const heard = {
  begun: ({ what }) => {
    $("stop").hidden = false;
    $("stop").textContent = what === "a fit" ? "Stop the fit" : "Stop";
    say(what === "a fit" ? "Fitting" : "Sampling");
  },
  plan: ({ side, plan, again }) => {
    const mine = sides[side];
    mine.plan = plan;
    if (plan.stochastic) mine.judged = null;
    if (!again) mine.frames = [];
    cards[side].classList.toggle("stale", !again);
    forms[side].tell(plan);
    axis.show(side, plan, again ? mine.judged?.rows : null, jobs.behind);
    if (!again) document.querySelector(".apart").classList.add("stale");
    if (tableSide() === side) showTable();
    showFigures();
  },
  row: async ({ side, row, of, mean, state, evaluations }) => {
    const mine = sides[side];
    const frame = { evaluations, of };
    mine.frames[row] = frame;
    const place = mine.frames;
    [frame.mean, frame.state] = await Promise.all([load(mean), load(state)]);
    if (mine.frames === place && !playing) showStep(Infinity);
  },
  sampled: ({ side, seconds, evaluations }) => {
    sides[side].sampled = { seconds, evaluations };
    cards[side].classList.remove("stale");
    say(`Sampled ${"AB"[side]}`);
    showFigures();
  },
  difference: async (event) => {
    apart = { ...event, strip: await load(event.picture) };
    document.querySelector(".apart").classList.remove("stale");
    showStep(currentStep());
    showFigures();
  },
  progress: ({ stage, part }) => {
    $("progress").hidden = false;
    $("progress").value = part;
    say(stage === "reference" ? "Making the reference the error is measured to" : `Fitting: ${stage}`);
  },
  judged: ({ side, ...judged }) => {
    const mine = sides[side];
    mine.judged = judged;
    axis.judge(side, judged.rows);
    const levels = mine.plan.levels;
    if (levels && mine.tries[mine.tries.length - 1]?.rms !== judged.rms) mine.tries.push({ rms: judged.rms, levels });
    mine.tries = mine.tries.slice(-60);
    showTrails();
    showFigures();
  },
  fitted: async ({ key, nfe, report }) => {
    await listPlans();
    race($("fit-report"), { ...report, nfe });
    $("two").checked = true;
    toggleTwo();
    forms[1].set({ plan: key });
  },
  busy: (event) => {
    busy = event.job;
    complain(new Refused(event), true);
  },
  failed: (event) => complain(new Refused(event)),
  ended: ({ cancelled }) => {
    if (jobs.pending) return; // another has been asked for already
    $("stop").hidden = $("progress").hidden = true;
    $("fit-go").disabled = false;
    const [a, b] = sides.map((side) => side.judged && number(side.judged.rms));
    const errors = [a && `error of A ${a}`, compares() && b && `of B ${b}`].filter(Boolean).join(", ");
    say(cancelled ? "Stopped" : $("problem").hidden ? `Done${errors ? `: ${errors}` : ""}` : "Something is wrong");
    if (!cancelled && batch) refreshLines();
  },
};

function say(text) {
  if ($("status").textContent !== text) $("status").textContent = text;
}

function complain(error, other = false) {
  $("problem").hidden = !error;
  if (!error) return;
  const parts = error.parts ?? { given: String(error), allowed: "", mend: "" };
  $("given").textContent = parts.given;
  $("allowed").textContent = parts.allowed ? `Allowed: ${parts.allowed}` : "";
  $("mend").textContent = parts.mend ? `Mend: ${parts.mend}` : "";
  $("stop-other").hidden = !other;
  $("fit-go").disabled = false;
  if (!jobs.job) say("Something is wrong");
}

// --- showing ------------------------------------------------------------------------------------------------------

function view() {
  return document.querySelector("input[name=view]:checked").value;
}

function tableSide() {
  return Number(document.querySelector("input[name=table]:checked").value);
}

function last(side) {
  return sides[side].frames.length - 1;
}

function steps() {
  return Math.max(...sides.map((side, i) => (i === 1 && !compares() ? 0 : side.plan?.rows.length ?? 0)), 1);
}

function currentStep() {
  return $("step").valueAsNumber >= Number($("step").max) ? Infinity : $("step").valueAsNumber;
}

/** Show the batch after a step of the longer plan; the shorter one is as far along, by share of its rows. */
function showStep(step) {
  const all = steps() - 1;
  const at = Math.min(step, all);
  $("step").max = all;
  $("step").value = at;
  const now = sides.map((side, i) => {
    const rows = (side.plan?.rows.length ?? 1) - 1;
    const wanted = step === Infinity ? last(i) : Math.round((at / Math.max(1, all)) * rows);
    return Math.min(wanted, last(i));
  });
  now.forEach((row, i) => {
    const image = sides[i].frames[row]?.[view()];
    if (image && (i === 0 || compares())) ofSide[i].show(image, batch.n, facts.item);
  });
  if (apart && compares()) pictureD.show(apart.strip, batch.n, facts.item);
  else if (!compares()) pictureD.clear();
  axis.at(now);
  highlight($("table"), now[tableSide()]);
  const words = sides.map(({ plan }, i) => {
    if (now[i] < 0 || !plan || (i === 1 && !compares())) return "";
    const level = plan.made[now[i]];
    return `${now[i] + 1} of ${plan.rows.length}, ${level ? `σ ${short(level.sigma)}` : "the data"}`;
  });
  $("step-text").textContent = words[1] && words[1] !== words[0] ? `A ${words[0]}; B ${words[1]}` : words[0];
  $("step").setAttribute("aria-valuetext", $("step-text").textContent);
}

function showFigures() {
  const item = pictureA.mark;
  sides.forEach((side, i) => {
    const root = cards[i].querySelector(".figures");
    const { plan, sampled, judged } = side;
    const kind = cards[i].querySelector(".kind");
    kind.textContent = kind.title = forms[i].title;
    const list = sampled ? [`${sampled.evaluations} evaluations`, `${sampled.seconds.toFixed(2)} s`] : [];
    if (judged) list.push(`median ${number(judged.median)}`);
    const main = judged ? [number(judged.rms), "error"] : plan?.stochastic ? ["", "draws noise: has no error to one reference"] : null;
    figures(root, { main, facts: list, item: judged && item !== null ? `Item ${item}: error ${number(judged.items[item])}` : "" });
    root.title = `rms distance to ${catalogue.reference.recipe} with ${catalogue.reference.nfe} evaluations from the same noise`;
  });
  const root = document.querySelector(".apart .figures");
  document.querySelector(".legend").hidden = !apart || !compares();
  if (apart) {
    $("least").textContent = `B brighter by ${number(apart.scale, 2)}`;
    $("most").textContent = `A by ${number(apart.scale, 2)}`;
  }
  if (!apart || !compares()) return figures(root, { facts: [compares() ? "" : "Tick “compare” to see it."] });
  const list = [`median ${number(apart.median)}`];
  figures(root, { main: [number(apart.rms), "rms apart"], facts: list, item: item !== null ? `Item ${item}: ${number(apart.items[item])} apart` : "" });
}

function showTable() {
  const side = tableSide();
  table($("table"), $("table-about"), sides[side].plan, catalogue, side, (row) => {
    stopPlaying();
    showStep(side === 0 || !sides[0].plan ? row : Math.round((row / Math.max(1, sides[1].plan.rows.length - 1)) * (steps() - 1)));
  });
  highlight($("table"), Math.min(last(side), side === 0 ? currentStep() : Infinity));
}

function showTrails() {
  const made = sides
    .map((side, i) => (side.tries.length > 1 && forms[i].sampler.levels ? trail(i, side.tries, (levels) => forms[i].move(levels, true)) : null))
    .filter(Boolean);
  $("trails").replaceChildren(...made);
}

function mark(item) {
  if (item === pictureA.mark) return;
  pictures.forEach((picture) => {
    picture.mark = item;
    picture.draw();
  });
  showFigures();
}

async function refreshLines() {
  try {
    $("lines").textContent = (await ask("/api/export/lines", shown())).text;
  } catch (error) {
    complain(error);
  }
}

function toggleTwo() {
  const two = compares();
  cards[1].classList.toggle("off", !two);
  document.querySelector(".apart").classList.toggle("off", !two);
  $("save-b").disabled = !two;
  if (!two) axis.show(1, null);
  if (!two) sides[1] = structuredClone(NONE);
  showFigures();
}

function stopPlaying() {
  clearInterval(playing);
  playing = null;
  $("play").textContent = "▶ Watch it form";
}

function play() {
  if (playing) return stopPlaying();
  let step = 0;
  $("play").textContent = "■ Enough";
  showStep(0);
  playing = setInterval(() => {
    step += 1;
    if (step >= steps()) return stopPlaying();
    showStep(step);
  }, 350);
}

// --- wiring -------------------------------------------------------------------------------------------------------

function attempt(work) {
  return async (...given) => {
    try {
      await work(...given);
    } catch (error) {
      complain(error);
    }
  };
}

function wire() {
  $("batch").addEventListener("submit", (event) => event.preventDefault());
  $("model").addEventListener("change", pickModel);
  $("guidance").addEventListener("input", offerNegative);
  for (const id of ["n", "seed", "condition", "guidance", "prompt", "negative"]) $(id).addEventListener("change", run);
  for (const id of ["prompt", "negative"]) {
    $(id).addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      $(id).blur(); // what changed is said to have changed, and run
      $(id).focus();
    });
  }
  $("fresh").addEventListener("click", () => {
    $("seed").value = $("seed").valueAsNumber + 1;
    run();
  });
  $("two").addEventListener("change", () => {
    toggleTwo();
    run();
  });
  $("step").addEventListener("input", () => {
    stopPlaying();
    showStep($("step").valueAsNumber);
  });
  $("play").addEventListener("click", play);
  document.querySelectorAll("input[name=view]").forEach((choice) => choice.addEventListener("change", () => showStep(currentStep())));
  document.querySelectorAll("input[name=table]").forEach((choice) => choice.addEventListener("change", showTable));
  $("stop").addEventListener("click", () => jobs.stop());
  $("stop-other").addEventListener("click", () => {
    jobs.stop(busy);
    complain(null);
  });
  $("dismiss").addEventListener("click", () => complain(null));
  $("fit").addEventListener("submit", (event) => {
    event.preventDefault();
    $("fit-go").disabled = true;
    complain(null);
    race($("fit-report"), null);
    jobs.tune({ batch: readBatch(), nfe: $("fit-nfe").valueAsNumber, effort: $("fit-effort").value });
  });
  $("save-a").addEventListener("click", attempt(() => savePlan(shown(), 0)));
  $("save-b").addEventListener("click", attempt(() => savePlan(shown(), 1)));
  $("save-lines").addEventListener("click", () => download(new Blob([$("lines").textContent], { type: "text/x-python" }), "studio.py"));
  $("copy").addEventListener("click", attempt(async () => {
    await navigator.clipboard.writeText($("lines").textContent);
    say("Copied");
  }));
  $("save-picture").addEventListener("click", attempt(async () => {
    const words = (side) => [sides[side].plan.recipe, `${sides[side].plan.nfe} evaluations`, sides[side].judged && `error ${number(sides[side].judged.rms)}`];
    const part = (side) => ({ strip: sides[side].frames[last(side)].mean, title: "AB"[side], words: words(side).filter(Boolean).join(", ") });
    const parts = [part(0)];
    if (compares() && apart) parts.push({ strip: apart.strip, title: "A − B", words: `rms ${number(apart.rms)}` }, part(1));
    await savePicture(parts, batch.n, facts.item, `${batch.model.replace(/\W+/g, "-")}-seed-${batch.seed}.png`);
  }));
  $("open-plan").addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", attempt(async () => {
    const files = await readFiles($("files").files);
    $("files").value = "";
    if (!files.length) return;
    const { key } = await ask("/api/plans", { files });
    await listPlans();
    $("two").checked = true;
    toggleTwo();
    forms[1].set({ plan: key });
  }));
  const dark = () => matchMedia("(prefers-color-scheme: dark)").matches;
  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    root.style.colorScheme = (root.style.colorScheme || (dark() ? "dark" : "light")) === "dark" ? "light" : "dark";
    localStorage.setItem("theme", root.style.colorScheme);
    pictures.forEach((picture) => picture.draw());
  });
}

async function begin() {
  document.documentElement.style.colorScheme = localStorage.getItem("theme") ?? "";
  catalogue = await ask("/api/catalogue");
  $("model").replaceChildren(...catalogue.models.map((name) => element("option", { value: name }, name)));
  $("fit-effort").replaceChildren(...catalogue.efforts.map((name) => element("option", { value: name }, name)));
  $("footer").textContent = `Retrograde ${catalogue.version}. Errors are rms distances to ${catalogue.reference.recipe} with ${catalogue.reference.nfe} evaluations from the same noise.`;
  const usual = { nfe: 8, grid: null, options: {}, levels: null, plan: null };
  forms = [
    new SamplerForm(cards[0].querySelector("form"), 0, catalogue, { recipe: "dpmpp_2m", ...usual }, samplerChanged),
    new SamplerForm(cards[1].querySelector("form"), 1, catalogue, { recipe: "ddim", ...usual }, samplerChanged),
  ];
  wire();
  let first = true;
  jobs = new Jobs({
    event: (event) => heard[event.event]?.(event),
    open: () => {
      if (first) return pickModel();
      complain(null);
      listPlans();
      run();
    },
    closed: () => {
      say("The studio is gone; waiting for it");
      $("stop").hidden = $("progress").hidden = true;
      first = !facts;
    },
  });
}

attempt(begin)();
