"use strict";
// The explorer: the decoders that the figures were made with, their weights as whole numbers with a scale a row.
// z: numbers that a decoder gets; ink: 784 grey levels, 255 is black.

const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

function make(tag, properties = {}, parent = null) {
  const element = Object.assign(document.createElement(tag), properties);
  if (parent) parent.append(element);
  return element;
}

// --- numbers ---------------------------------------------------------------------------------------------------------

function bytes(text) {
  const raw = atob(text), array = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) array[i] = raw.charCodeAt(i);
  return array;
}
const floats = (text) => new Float32Array(bytes(text).buffer);
const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
const add = (z, direction, step) => z.map((value, i) => value + step * direction[i]);
const length = (z) => Math.sqrt(dot(z, z));
const unit = (d, i) => Float32Array.from({ length: d }, (_, j) => Number(i === j));

function normal() {  // Box and Muller
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

function rowsOf(flat, columns) {
  return Array.from({ length: flat.length / columns }, (_, i) => flat.slice(i * columns, (i + 1) * columns));
}

class Decoder {
  constructor(layers) {
    this.layers = layers.map((layer) => {
      const whole = new Int8Array(bytes(layer.weight).buffer), scale = floats(layer.scale);
      const weight = new Float32Array(whole.length);
      for (let i = 0; i < weight.length; i++) weight[i] = whole[i] * scale[Math.floor(i / layer.columns)];
      return { weight, bias: floats(layer.bias), columns: layer.columns };
    });
  }

  ink(z) {
    let x = [];
    for (const [depth, { weight, bias, columns }] of this.layers.entries()) {
      const input = Float32Array.of(...x, ...z);  // z beside x, unless the layer has columns for x alone
      const y = new Float32Array(bias.length), last = depth === this.layers.length - 1;
      for (let row = 0, at = 0; row < y.length; row++) {
        let sum = bias[row];
        for (let column = 0; column < columns; column++) sum += weight[at++] * input[column];
        y[row] = (last ? 255 : sum) / (1 + Math.exp(-sum));  // a sigmoid at the end, SiLU before
      }
      x = y;
    }
    return x;
  }
}

function paint(canvas, ink, left = 0, top = 0) {
  const image = new ImageData(28, 28);
  ink.forEach((level, i) => image.data.set([255 - level, 255 - level, 255 - level, 255], 4 * i));
  canvas.getContext("2d").putImageData(image, left, top);
}

// --- one card a model ------------------------------------------------------------------------------------------------

class Card {
  constructor(name, model, labels) {
    Object.assign(this, { name, model, labels, decoder: new Decoder(model.layers), pending: false });
    this.element = $("#card").content.cloneNode(true).firstElementChild;
    this.element.classList.add(`of-${name}`);
    this.element.dataset.model = name;
    $("h3", this.element).textContent = name;
    $("#cards").append(this.element);
    const buttons = $(".buttons", this.element);
    buttons.setAttribute("aria-label", `Draw a z for ${name}`);
    for (const sampler of new Set([model.random, ...Object.keys(model.codes)])) {
      const button = make("button", { type: "button", textContent: labels[sampler] ?? sampler }, buttons);
      button.addEventListener("click", () => this.draw(sampler));
    }
  }

  fill(template) {
    $(".pair", this.element).append($(`#${template}`).content.cloneNode(true));
    this.element.append($(`#${template}-settings`).content.cloneNode(true));
  }

  start() {  // what is seen first is the same each time
    if (this.codes[this.model.random]) this.open(this.model.random, 0);
    else this.draw(this.model.random);
  }

  draw(sampler) {  // pure random z are drawn here and now; those of a density come from what evaluate drew from it
    if (sampler === this.model.random) return this.load(this.random(), `${this.labels[sampler]}, drawn just now`);
    const count = this.codes[sampler]?.length ?? 0;
    if (count) this.open(sampler, Math.floor(Math.random() * count));
  }

  open(sampler, index) {
    const code = this.codes[sampler]?.[index];
    const what = sampler === "posterior" ? `code of test image ${index + 1}` : `${this.labels[sampler]}, sample ${index + 1}`;
    if (code) this.load(code.slice(), what);
  }

  show(z, status) {
    const canvas = $(".digit", this.element);
    paint(canvas, this.decoder.ink(z));
    canvas.setAttribute("aria-label", `What ${this.name} decodes: ${status}`);
    $(".status", this.element).textContent = status;
  }

  later(work) {  // many moves within a frame are drawn once
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => { this.pending = false; work(); });
  }
}

// --- AE and VAE: a plane through z, and a slider for each of its numbers -----------------------------------------------

const CELLS = 7;

class PlaneCard extends Card {
  constructor(name, model, labels) {
    super(name, model, labels);
    this.size = model.mean.length;
    this.codes = Object.fromEntries(Object.entries(model.codes).map(([key, text]) => [key, rowsOf(floats(text), this.size)]));
    this.fill("plane");
    this.pad = $(".pad", this.element);
    this.pad.setAttribute("aria-label", `Plane through the z of ${name}: arrow keys move`);
    this.map = Object.assign($(".map", this.element), { width: 28 * CELLS, height: 28 * CELLS });
    this.reach = model.deviation.map((deviation) => Math.ceil(Math.max(3, 3 * deviation)));
    this.makeAxes();
    this.makeSliders();
    this.listen();
    this.start();
  }

  makeAxes() {
    const wanted = this.model.directions.map((direction, i) => [`direction ${i + 1}`, Float32Array.from(direction)]);
    this.axes = [...wanted, ...this.reach.map((_, i) => [`z${i + 1}`, unit(this.size, i)])];
    this.selects = $$(".axes select", this.element);
    this.selects.forEach((select, place) => {
      this.axes.forEach(([label], i) => make("option", { textContent: label, value: i }, select));
      select.selectedIndex = place;
      select.addEventListener("change", () => {
        const other = this.selects[1 - place];  // a plane needs two different axes
        if (other.value === select.value) other.selectedIndex = (select.selectedIndex + 1) % this.axes.length;
        this.drawPlane();
      });
    });
  }

  makeSliders() {
    const box = $(".sliders div", this.element);
    $(".sliders", this.element).open = innerWidth > 640;
    this.sliders = this.reach.map((reach, i) => {
      const label = make("label", {}, box);
      make("span", { textContent: `z${i + 1}` }, label);
      const slider = make("input", { type: "range", min: -reach, max: reach, step: 0.05 }, label);
      const output = make("output", {}, label);
      slider.addEventListener("input", () => {
        this.z[i] = Number(slider.value);
        this.moved(true);
      });
      return { slider, output };
    });
  }

  listen() {
    const follow = (event) => {
      const box = this.pad.getBoundingClientRect();
      this.moveTo([2 * (event.clientX - box.left) / box.width - 1, 1 - 2 * (event.clientY - box.top) / box.height]);
    };
    this.pad.addEventListener("pointerdown", (event) => {
      this.pad.setPointerCapture(event.pointerId);
      follow(event);
    });
    this.pad.addEventListener("pointermove", (event) => event.buttons && follow(event));
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    this.pad.addEventListener("keydown", (event) => {
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      this.moveTo(this.place().map((value, i) => value + 0.07 * step[i]));
    });
  }

  random() { return Float32Array.from({ length: this.size }, normal); }

  // The two axes made perpendicular and of length 1, each with how far the pad goes: three deviations of the codes.
  plane() {
    const [first, second] = this.selects.map((select) => this.axes[select.value][1]);
    const rest = add(second, first, -dot(first, second)), long = length(rest) || 1;
    const axes = [first, rest.map((value) => value / long)];
    const reach = axes.map((axis) => 3 * Math.max(1, length(axis.map((value, i) => value * this.model.deviation[i]))));
    return { axes, reach };
  }

  at(point) {  // where a z is seen on the pad, from -1 to 1
    const { axes, reach } = this.plane(), centred = add(point, this.model.mean, -1);
    return axes.map((axis, i) => dot(centred, axis) / reach[i]);
  }

  place() { return this.at(this.z); }

  from(place) {  // the z whose place on the pad is this, the rest of it as it is
    const { axes, reach } = this.plane(), now = this.place();
    return axes.reduce((z, axis, i) => add(z, axis, (place[i] - now[i]) * reach[i]), this.z);
  }

  moveTo(place) {
    this.z = this.from(place.map((value) => Math.max(-1, Math.min(1, value))));
    this.moved(false);
  }

  load(z, status) {
    this.z = z;
    this.status = status;
    this.refresh(true);
  }

  moved(wholePlane) {
    this.status = "z moved by hand";
    this.later(() => this.refresh(wholePlane));
  }

  refresh(wholePlane) {
    this.show(this.z, this.status);
    this.sliders.forEach(({ slider, output }, i) => {
      slider.value = this.z[i];
      output.textContent = this.z[i].toFixed(2).replace("-", "\u2212");
    });
    const lengths = (this.codes.posterior ?? []).map(length), mean = lengths.reduce((a, b) => a + b, 0) / lengths.length;
    const usual = lengths.length ? `, codes of test images ${mean.toFixed(1)}` : "";
    $(".measure", this.element).textContent =
      `Length of z: ${length(this.z).toFixed(1)} (N(0, I) has about ${Math.sqrt(this.size).toFixed(1)}${usual}).`;
    if (wholePlane) this.drawPlane();
    else this.drawMarks();
  }

  drawPlane() {
    for (let row = 0; row < CELLS; row++) {
      for (let column = 0; column < CELLS; column++) {
        const place = [(2 * column + 1) / CELLS - 1, 1 - (2 * row + 1) / CELLS];
        paint(this.map, this.decoder.ink(this.from(place)), 28 * column, 28 * row);
      }
    }
    this.drawMarks();
  }

  drawMarks() {
    const canvas = $(".marks", this.element), context = canvas.getContext("2d"), half = canvas.width / 2;
    const { reach } = this.plane(), onPad = ([across, up]) => [half * (1 + across), half * (1 - up)];
    const ring = (place, radii, colour, width) => {
      context.beginPath();
      context.ellipse(...onPad(place), ...radii, 0, 0, 2 * Math.PI);
      Object.assign(context, { strokeStyle: colour, lineWidth: width });
      context.stroke();
    };
    context.clearRect(0, 0, canvas.width, canvas.height);
    const colour = getComputedStyle(this.element).getPropertyValue("--model");
    for (const code of this.codes.posterior ?? []) ring(this.at(code), [2, 2], colour, 4);
    const median = Math.sqrt(2 * Math.log(2));  // of the length of two standard normal numbers
    ring(this.at(new Float32Array(this.size)), reach.map((far) => half * median / far), colour, 3);
    ring(this.place(), [13, 13], "#ffffff", 9);
    ring(this.place(), [13, 13], "#d0004c", 5);
  }
}

// --- VQ-VAE: a grid of codes -----------------------------------------------------------------------------------------

const NEAR = 12, FAR = 12;  // entries offered: the nearest, and others spread evenly over the rest

class GridCard extends Card {
  constructor(name, model, labels) {
    super(name, model, labels);
    const flat = floats(model.codebook), columns = flat.length / model.entries;
    this.entries = rowsOf(flat, columns);
    this.places = model.layers[0].columns / columns;
    this.codes = Object.fromEntries(
      Object.entries(model.codes).map(([key, text]) => [key, rowsOf(new Uint16Array(bytes(text).buffer), this.places)]));
    const spread = [0, 1, 2].map((i) => this.entries.map((entry) => entry[i % columns]).sort((a, b) => a - b));
    this.swatches = this.entries.map((entry) =>
      `rgb(${spread.map((sorted, i) => Math.round(60 + 180 * sorted.indexOf(entry[i % columns]) / model.entries))})`);
    this.fill("grid");
    this.palette = $(".palette", this.element);
    this.makePlaces();
    this.selected = 0;
    this.start();
  }

  makePlaces() {
    const grid = $(".codes", this.element), side = Math.round(Math.sqrt(this.places));
    grid.style.setProperty("--side", side);
    grid.setAttribute("aria-label", `Codes of ${this.name}`);
    this.buttons = Array.from({ length: this.places }, (_, place) => {
      const button = make("button", { type: "button" }, grid);
      button.dataset.where = `row ${Math.floor(place / side) + 1}, column ${(place % side) + 1}`;
      button.addEventListener("click", () => this.select(place));
      button.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        if (place !== this.selected) this.select(place);
        this.cycle(step);
      });
      return button;
    });
  }

  random() { return Uint16Array.from({ length: this.places }, () => Math.floor(Math.random() * this.entries.length)); }

  embed(codes) { return Float32Array.from([...codes].flatMap((code) => [...this.entries[code]])); }

  load(codes, status) {
    this.grid = codes;
    this.status = status;
    this.select(this.selected);
  }

  select(place) {  // entries are offered by their distance to the one that stands there now
    this.selected = place;
    const anchor = this.entries[this.grid[place]];
    const distances = this.entries.map((entry) => entry.reduce((sum, value, i) => sum + (value - anchor[i]) ** 2, 0));
    this.order = [...this.entries.keys()].sort((a, b) => distances[a] - distances[b]);
    this.rank = 0;
    const far = Array.from({ length: FAR }, (_, i) => NEAR + Math.floor((i + 1) * (this.order.length - 1 - NEAR) / FAR));
    this.ranks = [...Array(NEAR).keys(), ...far].filter((rank, i, all) => this.order[rank] !== undefined && all.indexOf(rank) === i);
    this.drawPalette();
    this.refresh();
  }

  cycle(step) { this.swap(Math.max(0, Math.min(this.order.length - 1, this.rank + step))); }

  swap(rank) {
    this.rank = rank;
    this.grid[this.selected] = this.order[rank];
    this.status = `code ${this.order[rank]} put at ${this.buttons[this.selected].dataset.where}`;
    this.refresh();
  }

  drawPalette() {
    $("h4", this.element).textContent = `Another code at ${this.buttons[this.selected].dataset.where}, nearest first`;
    this.palette.setAttribute("aria-label", `Codes to put at ${this.buttons[this.selected].dataset.where}`);
    this.palette.replaceChildren();
    for (const rank of this.ranks) {
      const code = this.order[rank], tried = this.grid.slice();
      tried[this.selected] = code;
      const button = make("button", { type: "button" }, this.palette);
      button.dataset.rank = rank;
      button.style.setProperty("--swatch", this.swatches[code]);
      const canvas = make("canvas", { className: "ink", width: 28, height: 28 }, button);
      paint(canvas, this.decoder.ink(this.embed(tried)));
      button.append(String(code));
      button.addEventListener("click", () => this.swap(rank));
    }
  }

  refresh() {
    this.show(this.embed(this.grid), this.status);
    this.buttons.forEach((button, place) => {
      const code = this.grid[place];
      button.textContent = code;
      button.style.setProperty("--swatch", this.swatches[code]);
      button.setAttribute("aria-label", `code ${code} at ${button.dataset.where}`);
      button.setAttribute("aria-pressed", String(place === this.selected));
    });
    for (const button of this.palette.children) button.setAttribute("aria-pressed", String(Number(button.dataset.rank) === this.rank));
    $(".measure", this.element).textContent =
      `Entry ${this.rank + 1} of ${this.order.length}, counted from the nearest to what stood there.`;
  }
}
