"use strict";
/* Sorts the tables and draws the charts. Without it the page has the same tables and still charts. */
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const MOST_DOTS = 40; // epochs of a line that is drawn with a dot at each
  const MARGIN = { right: 12, top: 26, bottom: 40 };
  const CHARACTER = 7; // pixels of a digit
  const MOST_ROWS = 12; // of values at a place
  const CROWD = 5; // bands that are told apart at full strength
  const NARROWEST = 120; // pixels; less is a page that is not laid out

  function filled(made, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }
  const element = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);
  const shape = (name, attributes = {}, ...children) => filled(document.createElementNS(SVG, name), attributes, children);

  /* Tables: a heading sorts up, then down, then restores the order of the records. What is missing is always last. */

  const NEXT = { none: "ascending", ascending: "descending", descending: "none" };
  const sorted = new Map(); // table → "column.direction", as in the address

  function compare(one, other) {
    if (one === "" || other === "") return 0;
    const [a, b] = [Number(one), Number(other)];
    return Number.isNaN(a) || Number.isNaN(b) ? one.localeCompare(other) : a - b;
  }

  function sort(table, key, direction) {
    const headings = [...table.tHead.rows[0].cells];
    const column = headings.findIndex((heading) => heading.dataset.key === key);
    for (const heading of headings) heading.setAttribute("aria-sort", "none");
    const rows = [...table.tBodies[0].rows].sort((a, b) => a.dataset.place - b.dataset.place);
    sorted.delete(table.dataset.name);
    if (column >= 0 && direction !== "none") {
      const value = (row) => row.cells[column].dataset.value;
      const sign = direction === "descending" ? -1 : 1;
      rows.sort((a, b) => (value(a) === "") - (value(b) === "") || sign * compare(value(a), value(b)));
      headings[column].setAttribute("aria-sort", direction);
      sorted.set(table.dataset.name, `${key}.${direction}`);
    }
    table.tBodies[0].append(...rows);
  }

  function sortable(table) {
    [...table.tBodies[0].rows].forEach((row, place) => { row.dataset.place = place; });
    for (const heading of table.tHead.rows[0].cells) {
      heading.replaceChildren(element("button", { type: "button" }, heading.textContent));
      heading.setAttribute("aria-sort", "none");
      heading.addEventListener("click", () => {
        sort(table, heading.dataset.key, NEXT[heading.getAttribute("aria-sort")]);
        history.replaceState(null, "", `#${new URLSearchParams([...sorted])}`);
      });
    }
  }

  function sortAsTheAddressSays() {
    if (location.hash && !location.hash.includes("=")) return; // a link to a section
    const wanted = new URLSearchParams(location.hash.slice(1));
    for (const table of document.querySelectorAll("table")) {
      const [key, direction] = (wanted.get(table.dataset.name) || ".none").split(".");
      sort(table, key, direction in NEXT ? direction : "none");
    }
  }

  /* Axes: ticks and their texts, and from a value to a pixel. */

  function evenTicks(low, high, count) {
    const raw = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const ticks = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) ticks.push([k * step, (k * step).toFixed(digits)]);
    return ticks;
  }

  function logTicks(low, high) {
    const text = (value) => (value >= 1e-4 && value < 1e5 ? String(Number(value.toPrecision(3))) : value.toExponential(0));
    const decades = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) decades.push(power);
    for (const factors of [[1], [1, 3], [1, 2, 5], [1, 2, 3, 5, 7]]) {
      const values = decades.flatMap((power) => factors.map((factor) => Number(`${factor}e${power}`)));
      const within = values.filter((value) => value >= low && value <= high);
      const every = Math.ceil(within.length / 6);
      if (within.length >= 3) return within.filter((_, index) => index % every === 0).map((value) => [value, text(value)]);
    }
    return evenTicks(low, high, 4);
  }

  function scale(low, high, from, to, of) {
    const [a, b] = [of(low), of(high)];
    return (value) => from + ((of(value) - a) / (b - a)) * (to - from);
  }

  function padded(low, high, share) {
    const margin = (high - low) * share || Math.abs(high) * 0.05 || 0.5;
    return [low - margin, high + margin];
  }

  /* Panels: one for the training loss, one for the metric. */

  const loss = {
    title: () => "training loss (log)",
    curve: (series) => series.train_loss,
    text: (value) => Number(value.toPrecision(3)).toString(),
    spread: (deviation) => Number(deviation.toPrecision(2)).toString(),
    best: Math.min,
    of: Math.log10,
    ticks: logTicks,
    drawable: (value) => value > 0,
    range(chart, values) {
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const margin = (high / low) ** 0.05 > 1.01 ? (high / low) ** 0.05 : 1.05;
      return [low / margin, high * margin];
    },
  };

  function metricOf(data) {
    const { name, scale: factor, digits, unit, higher } = data.metric;
    return {
      title: () => `evaluation ${name}${unit && `,${unit}`}`,
      curve: (series) => series.metric,
      text: (value) => (factor * value).toFixed(digits) + unit,
      spread: (deviation) => (factor * deviation).toFixed(digits),
      best: higher ? Math.max : Math.min,
      of: (value) => value,
      ticks: (low, high) => evenTicks(factor * low, factor * high, 5).map(([value, text]) => [value / factor, text]),
      drawable: () => true,
      target: data.target,
      range(chart, values) {
        if (data.focus && !chart.whole) return data.focus;
        const all = data.target === null ? values : [...values, data.target];
        return padded(Math.min(...all), Math.max(...all), 0.06);
      },
    };
  }

  const path = (points) => points.map(([x, y], index) => `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  const colours = (series) => `--light:${series.light};--dark:${series.dark}`;
  const classes = (series) => (series.own ? "series own-series" : "series");

  class Panel {
    constructor(chart, kind) {
      Object.assign(this, { chart, kind, found: [], shown: null });
      this.tip = element("div", { class: "tip", role: "status", hidden: "" });
      this.svg = shape("svg", { tabindex: "0", role: "img" });
      this.node = element("div", { class: "panel" }, this.svg, this.tip);
      this.svg.addEventListener("pointermove", (event) => this.point(event));
      this.svg.addEventListener("pointerdown", (event) => this.point(event));
      this.svg.addEventListener("pointerleave", () => this.show(null));
      this.svg.addEventListener("blur", () => this.show(null));
      this.svg.addEventListener("keydown", (event) => this.key(event));
    }

    lines() {
      const { kind, chart } = this;
      return chart.visible().map((series) => {
        const { mean, deviation, [chart.against]: x } = kind.curve(series);
        const points = mean.map((value, index) => ({ x: x[index], value, deviation: deviation ? deviation[index] : null, epoch: index + 1 }));
        return { series, points: points.filter((point) => kind.drawable(point.value)) };
      }).filter(({ points }) => points.length);
    }

    render() {
      const width = this.node.clientWidth;
      if (width < NARROWEST) return;
      const height = Math.max(220, Math.min(320, width * 0.62));
      this.show(null);
      this.found = this.lines();
      this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      this.svg.setAttribute("height", height);
      this.svg.setAttribute("aria-label", `${this.kind.title()} against ${this.chart.against}; arrow keys show values`);
      this.svg.replaceChildren(shape("text", { class: "title", x: 0, y: 14 }, this.kind.title()));
      if (!this.found.length) {
        this.svg.append(shape("text", { x: 0, y: height / 2 }, "nothing to show"));
        return;
      }
      this.axes(width, height);
      if (this.found.length > CROWD) this.plot.setAttribute("class", "crowded");
      for (const line of this.found) this.plot.append(this.line(line));
      this.targetLine();
      this.overlay = shape("g");
      this.svg.append(this.overlay);
    }

    axes(width, height) {
      const { kind, chart, found } = this;
      const points = found.flatMap((line) => line.points);
      const [low, high] = kind.range(chart, points.map((point) => point.value));
      const ticks = kind.ticks(low, high);
      const xs = points.map((point) => point.x);
      const inEpochs = chart.against === "epochs";
      const [first, last] = [inEpochs ? Math.min(...xs) : 0, Math.max(...xs)];
      const [begin, end] = first < last ? [first, last] : [first - 0.5, last + 0.5];
      const left = 10 + CHARACTER * Math.max(...ticks.map(([, text]) => text.length));
      this.box = { left, right: width - MARGIN.right, top: MARGIN.top, bottom: height - MARGIN.bottom };
      const { right, top, bottom } = this.box;
      this.x = scale(begin, end, left + 6, right - 4, (value) => value);
      this.y = scale(low, high, bottom, top, kind.of);
      for (const [value, text] of ticks) {
        const y = this.y(value);
        this.svg.append(shape("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }), shape("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, text));
      }
      const across = evenTicks(begin, end, Math.max(2, Math.floor((right - left) / 50))).filter(([value]) => !inEpochs || Number.isInteger(Number(value.toFixed(6))));
      for (const [value, decimals] of across) {
        const text = inEpochs ? String(Math.round(value)) : decimals;
        this.svg.append(shape("line", { class: "axis", x1: this.x(value), x2: this.x(value), y1: bottom, y2: bottom + 4 }), shape("text", { x: this.x(value), y: bottom + 17, "text-anchor": "middle" }, text));
      }
      const unit = inEpochs ? "epochs" : "seconds of training";
      this.svg.append(shape("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }), shape("text", { x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle" }, unit));
      this.plot = shape("svg", { x: left, y: top, width: right - left, height: bottom - top, viewBox: `${left} ${top} ${right - left} ${bottom - top}` });
      this.svg.append(this.plot);
    }

    line({ series, points }) {
      const at = (point, value) => [this.x(point.x), this.y(value)];
      const group = shape("g", { class: classes(series), style: colours(series), "data-label": series.label });
      if (points[0].deviation !== null) {
        const floor = this.kind.of === Math.log10 ? (point) => Math.max(point.value - point.deviation, point.value / 1e3) : (point) => point.value - point.deviation;
        const outline = [...points.map((point) => at(point, point.value + point.deviation)), ...points.map((point) => at(point, floor(point))).reverse()];
        group.append(shape("path", { class: "band", d: `${path(outline)}Z` }));
      }
      group.append(shape("path", { class: "line", d: path(points.map((point) => at(point, point.value))), "stroke-dasharray": series.dash }));
      if (points.length <= MOST_DOTS) {
        for (const [cx, cy] of points.map((point) => at(point, point.value))) group.append(shape("circle", { class: "dot", cx, cy, r: series.own ? 3.5 : 2.5 }));
      }
      return group;
    }

    targetLine() {
      const { kind, box: { left, right, top, bottom } } = this;
      const y = typeof kind.target === "number" ? this.y(kind.target) : NaN;
      if (!(y >= top && y <= bottom)) return;
      const roomAbove = y - 6 > top + 12;
      const above = kind.best === Math.max ? roomAbove : y + 18 > bottom; // the side that lines reach last
      this.svg.append(
        shape("line", { class: "target", x1: left, x2: right, y1: y, y2: y }),
        shape("text", { class: "halo", x: left + 4, y: above ? y - 6 : y + 14 }, `target ${kind.text(kind.target)}`),
      );
    }

    places() {
      return [...new Set(this.found.flatMap((line) => line.points.map((point) => point.x)))].sort((a, b) => a - b);
    }

    point(event) {
      if (!this.found.length) return;
      const frame = this.svg.getBoundingClientRect();
      const pixel = ((event.clientX - frame.left) / frame.width) * this.node.clientWidth;
      const distance = (value) => Math.abs(this.x(value) - pixel);
      this.show(this.places().reduce((best, value) => (distance(value) < distance(best) ? value : best)));
    }

    key(event) {
      const places = this.places();
      const here = this.shown === null ? -1 : places.indexOf(this.shown);
      const last = places.length - 1;
      const wanted = { ArrowLeft: Math.max(0, here - 1), ArrowRight: Math.min(last, here + 1), Home: 0, End: last }[event.key];
      if (event.key === "Escape") this.show(null);
      if (wanted === undefined || !places.length) return;
      event.preventDefault();
      this.show(places[wanted]);
    }

    /* Each line's point nearest to a place; a line that has ended long before has none. */
    nearest(place) {
      const near = this.found.map(({ series, points }) => {
        const point = points.reduce((best, other) => (Math.abs(other.x - place) < Math.abs(best.x - place) ? other : best));
        const spacing = points.length > 1 ? (points.at(-1).x - points[0].x) / (points.length - 1) : Infinity;
        return { series, point, near: Math.abs(point.x - place) <= (this.chart.against === "epochs" ? 0 : spacing) };
      });
      const sign = this.kind.best === Math.max ? -1 : 1;
      return near.filter((entry) => entry.near).sort((a, b) => sign * (a.point.value - b.point.value));
    }

    show(place) {
      this.shown = place;
      this.tip.hidden = place === null;
      this.overlay?.replaceChildren();
      if (place === null) return;
      const { box, kind, chart } = this;
      const x = this.x(place);
      const entries = this.nearest(place);
      this.overlay.append(shape("line", { class: "cursor", x1: x, x2: x, y1: box.top, y2: box.bottom }));
      for (const { series, point } of entries) {
        const y = this.y(point.value);
        if (y >= box.top && y <= box.bottom) this.overlay.append(shape("circle", { class: `ring ${classes(series)}`, style: colours(series), cx: this.x(point.x), cy: y, r: 4.5 }));
      }
      const spread = ({ deviation }) => (deviation === null ? "" : ` ± ${kind.spread(deviation)}`);
      const when = (point) => (chart.against === "epochs" ? "" : ` (epoch ${point.epoch})`);
      const rows = entries.slice(0, MOST_ROWS).map(({ series, point }) => element("div", { class: classes(series), style: colours(series) }, element("span", {}, series.label), element("span", { class: "value" }, kind.text(point.value) + spread(point) + when(point))));
      if (entries.length > rows.length) rows.push(element("div", {}, `and ${entries.length - rows.length} more`));
      this.tip.replaceChildren(chart.against === "epochs" ? `epoch ${place}` : `${Number(place.toPrecision(3))} s`, ...rows);
      const room = this.node.clientWidth - this.tip.offsetWidth;
      this.tip.style.left = `${Math.max(0, Math.min(room, x > this.node.clientWidth / 2 ? x - this.tip.offsetWidth - 12 : x + 12))}px`;
    }
  }

  class Chart {
    constructor(data) {
      Object.assign(this, { data, against: "epochs", whole: false, hidden: new Set() });
      this.panels = [loss, metricOf(data)].map((kind) => new Panel(this, kind));
      const panels = element("div", { class: "panels" }, ...this.panels.map((panel) => panel.node));
      this.node = element("div", { class: "live" }, this.controls(), panels, this.legend());
    }

    all() {
      this.hidden = new Set(this.hidden.size ? [] : this.data.series.keys());
    }

    visible() {
      return this.data.series.filter((_, index) => !this.hidden.has(index));
    }

    render() {
      for (const panel of this.panels) panel.render();
    }

    button(text, pressed, act) {
      const made = element("button", { type: "button", "aria-pressed": pressed() }, text);
      made.addEventListener("click", () => {
        act();
        for (const { button, pressed: now } of this.buttons) button.setAttribute("aria-pressed", now());
        this.render();
      });
      (this.buttons ??= []).push({ button: made, pressed });
      return made;
    }

    controls() {
      const axes = ["epochs", "seconds"].map((name) => this.button(name, () => this.against === name, () => { this.against = name; }));
      const whole = this.button("whole range", () => this.whole, () => { this.whole = !this.whole; });
      const controls = element("div", { class: "controls" }, element("div", { role: "group", "aria-label": "horizontal axis" }, ...axes));
      if (this.data.focus) controls.append(element("div", {}, whole));
      if (this.data.series.length > CROWD) controls.append(element("div", {}, this.button("all series", () => !this.hidden.size, () => this.all())));
      return controls;
    }

    legend() {
      const entries = this.data.series.map((series, index) => {
        const toggle = () => (this.hidden.has(index) ? this.hidden.delete(index) : this.hidden.add(index));
        const swatch = shape("svg", { viewBox: "0 0 28 12", "aria-hidden": "true" }, shape("path", { class: "line", d: "M1 6H27", "stroke-dasharray": series.dash }), shape("circle", { class: "dot", cx: 14, cy: 6, r: 3 }));
        const made = this.button(series.label, () => !this.hidden.has(index), toggle);
        made.prepend(swatch);
        made.className = classes(series);
        made.style.cssText = colours(series);
        return element("li", {}, made);
      });
      return element("ul", { class: "legend", "aria-label": "series; press to hide or show" }, ...entries);
    }
  }

  /* The still charts go only when the live ones are there. */
  function enliven(figure, data) {
    const chart = new Chart(data);
    figure.append(chart.node);
    chart.render();
    for (const still of figure.querySelectorAll(".still")) still.remove();
    let width = figure.clientWidth;
    new ResizeObserver(() => {
      if (figure.clientWidth !== width) chart.render();
      width = figure.clientWidth;
    }).observe(figure);
  }

  function themed(button) {
    const system = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : system.matches);
    const say = () => { button.textContent = isDark() ? "Light" : "Dark"; };
    button.addEventListener("click", () => {
      document.documentElement.dataset.theme = isDark() ? "light" : "dark";
      say();
    });
    system.addEventListener("change", say);
    button.hidden = false;
    say();
  }

  themed(document.getElementById("theme"));
  document.querySelectorAll("table").forEach(sortable);
  sortAsTheAddressSays();
  addEventListener("hashchange", sortAsTheAddressSays);
  const data = JSON.parse(document.getElementById("data").textContent);
  for (const figure of document.querySelectorAll("figure[data-chart]")) enliven(figure, data[figure.dataset.chart]);
})();
