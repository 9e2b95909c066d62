// The form of one plan: a recipe with budget, grid and options, or a plan of the shelf.

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function options(select, groups, chosen) {
  select.replaceChildren(
    ...groups
      .filter(([, entries]) => entries.length)
      .map(([label, entries]) => {
        const made = entries.map(([value, text, title]) => element("option", { value, title: title ?? "" }, text));
        return label ? element("optgroup", { label }, ...made) : made;
      })
      .flat(),
  );
  if ([...select.options].some((option) => option.value === chosen)) select.value = chosen;
}

export class SamplerForm {
  constructor(root, side, catalogue, sampler, changed) {
    Object.assign(this, { root, side, catalogue, sampler, changed, plans: [] });
    const name = "AB"[side];
    this.source = element("select", { name: `source-${name}`, ariaLabel: `Plan ${name}` });
    this.nfe = element("input", { type: "number", min: 1, max: 1000, required: true, name: `nfe-${name}`, ariaLabel: `Evaluations of plan ${name}` });
    this.grid = element("select", { name: `grid-${name}`, ariaLabel: `Levels of plan ${name}` });
    this.settings = element("div");
    this.more = element("details", {}, element("summary", {}, "Options"), this.settings);
    this.reset = element("button", { type: "button" }, "Put them back");
    this.hand = element("div", { className: "hand" }, "Levels moved by hand", this.reset);
    root.append(
      element("label", { className: "source" }, "Plan", this.source),
      (this.gridField = element("label", {}, "Levels", this.grid)),
      (this.nfeField = element("label", {}, "Evaluations", this.nfe)),
      this.more,
      this.hand,
    );
    root.addEventListener("submit", (event) => event.preventDefault());
    this.source.addEventListener("change", () => {
      const [kind, key] = this.source.value.split(/:(.*)/s);
      this.set(kind === "plan" ? { plan: key } : { recipe: key, plan: null, options: {} });
    });
    this.grid.addEventListener("change", () => this.set({ grid: this.grid.value || null, options: this.kept(this.recipe) }));
    this.nfe.addEventListener("change", () => this.nfe.reportValidity() && this.set({ nfe: this.nfe.valueAsNumber }));
    this.reset.addEventListener("click", () => this.set({}));
    this.refresh();
  }

  get recipe() {
    return this.catalogue.recipes.find((recipe) => recipe.name === this.sampler.recipe);
  }

  get title() {
    const plan = this.plans.find(({ key }) => key === this.sampler.plan);
    return plan ? plan.label : this.recipe?.summary ?? "";
  }

  get gridOptions() {
    return this.catalogue.grids.find((grid) => grid.name === this.sampler.grid)?.options ?? {};
  }

  kept(...owners) {
    const known = Object.assign({}, ...owners.map((owner) => owner?.options ?? {}));
    return Object.fromEntries(Object.entries(this.sampler.options).filter(([key]) => key in known));
  }

  /** Change the sampler; levels moved by hand belong to what they were moved on. */
  set(part) {
    const nfe = this.sampler.nfe ?? (this.nfe.valueAsNumber || 8);
    this.sampler = { ...this.sampler, nfe, ...part, levels: null };
    this.refresh();
    this.changed(this.side);
  }

  /** Set levels by hand; a grid's options do not go with them, and one level more or fewer decides the budget. */
  move(shown, recount) {
    const levels = shown.map(({ time, sigma }) => (time === undefined ? { sigma } : { time })); // one that stayed, exactly
    this.sampler = { ...this.sampler, levels, grid: null, options: this.kept(this.recipe), nfe: recount ? null : this.sampler.nfe };
    this.refresh();
    this.changed(this.side, true);
  }

  offer(plans, fingerprint) {
    this.plans = plans.filter((plan) => plan.path === fingerprint);
    this.refresh();
  }

  refresh() {
    const { recipes, grids } = this.catalogue;
    const text = (recipe) => [`recipe:${recipe.name}`, recipe.name, recipe.summary];
    const saved = this.plans.map((plan) => [`plan:${plan.key}`, `${plan.label} (${plan.nfe} evaluations)`, plan.recipe]);
    const chosen = this.sampler.plan ? `plan:${this.sampler.plan}` : `recipe:${this.sampler.recipe}`;
    options(
      this.source,
      [
        ["Plans", saved],
        ["Recipes", recipes.filter((r) => !r.stochastic).map(text)],
        ["Recipes that draw noise", recipes.filter((r) => r.stochastic).map(text)],
      ],
      chosen,
    );
    this.source.title = this.sampler.plan ? "" : this.recipe?.summary ?? "";
    const own = Boolean(this.sampler.plan);
    const moved = Boolean(this.sampler.levels);
    options(this.grid, [["", [["", moved ? "by hand" : "the usual ones"]]], ["Grids", grids.map((g) => [g.name, g.name])]], this.sampler.grid ?? "");
    if (this.sampler.nfe) this.nfe.value = this.sampler.nfe;
    this.gridField.hidden = this.nfeField.hidden = own;
    this.hand.hidden = own || !moved;
    this.fill(own ? {} : { ...this.recipe?.options, ...(moved ? {} : this.gridOptions) });
  }

  fill(settings) {
    const entries = Object.entries(settings);
    this.more.hidden = !entries.length;
    this.settings.replaceChildren(
      ...entries.map(([key, usual]) => {
        const given = this.sampler.options[key];
        const flag = typeof usual === "boolean";
        const field = element("input", flag ? { type: "checkbox", checked: given ?? usual } : { type: "text", value: given ?? "" });
        if (!flag) field.placeholder = usual === null ? "as is" : String(usual);
        field.addEventListener("change", () => {
          const { [key]: _, ...rest } = this.sampler.options;
          this.set({ options: flag ? { ...rest, [key]: field.checked } : field.value.trim() === "" ? rest : { ...rest, [key]: read(field.value) } });
        });
        return element("label", {}, key, field);
      }),
    );
  }

  /** Show the budget that levels set by hand came to. */
  tell(plan) {
    if (!this.sampler.plan) this.nfe.value = plan.nfe;
  }
}

function read(text) {
  const number = Number(text);
  return Number.isNaN(number) ? text.trim() : number;
}
