// Themes, the samples at the top, and what ties them to the explorer, whose code stands before this.

function startTheme() {
  const button = $("#theme"), dark = matchMedia("(prefers-color-scheme: dark)");
  const set = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Use the ${theme === "dark" ? "light" : "dark"} theme`);
  };
  set(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => set(dark.matches ? "dark" : "light"));
  button.addEventListener("click", () => set(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
}

function startSamples(cards) {
  const panels = $$(".samples .card"), buttons = $$("[data-all]");
  const show = (panel, sampler) => {
    $("select", panel).value = sampler;
    for (const each of $$("[data-sampler]", panel)) each.hidden = each.dataset.sampler !== sampler;
  };
  const press = () => buttons.forEach((button) => {
    const all = panels.every((panel) => $("select", panel).value === (panel.dataset[button.dataset.all] ?? button.dataset.all));
    button.setAttribute("aria-pressed", String(all));
  });
  for (const button of buttons) {
    button.addEventListener("click", () => {
      panels.forEach((panel) => show(panel, panel.dataset[button.dataset.all] ?? button.dataset.all));
      press();
    });
  }
  for (const panel of panels) {
    $("select", panel).addEventListener("change", (event) => { show(panel, event.target.value); press(); });
    panel.addEventListener("click", (event) => {
      if (event.target.tagName !== "IMG") return;
      const box = event.target.getBoundingClientRect(), side = event.target.naturalWidth / 29;
      const [column, row] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((share) => Math.floor(share * side));
      cards.get(panel.dataset.model).open($("select", panel).value, row * Math.floor(side) + column);
      $(`#cards [data-model="${panel.dataset.model}"]`).scrollIntoView({ block: "center" });
    });
  }
}

function startExplorer() {
  const { models, originals, labels } = JSON.parse($("#decoders").textContent);
  const cards = new Map(Object.entries(models).map(([name, model]) =>
    [name, new (model.codebook ? GridCard : PlaneCard)(name, model, labels)]));
  for (const button of $$("[data-draw]")) {
    button.addEventListener("click", () => cards.forEach((card) => card.draw(card.model[button.dataset.draw])));
  }
  rowsOf(bytes(originals), 784).forEach((image, i) => {
    const button = make("button", { type: "button" }, $("#originals"));
    button.setAttribute("aria-label", `test image ${i + 1}`);
    paint(make("canvas", { className: "ink", width: 28, height: 28 }, button), image);
    button.addEventListener("click", () => cards.forEach((card) => card.open("posterior", i)));
  });
  return cards;
}

// What scrolls has to be reachable by keyboard.
function startScrolling() {
  const check = () => $$(".scroll, nav ul").forEach((box) => {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  });
  addEventListener("resize", check);
  check();
}

startTheme();
startSamples(startExplorer());
startScrolling();
document.documentElement.dataset.ready = "yes";
