"use strict";

// The part of the address after # holds the whole state of the page. Therefore every view can be
// linked to, and the browser's Back button works. For safety, names from the data set are inserted
// as text only, never as HTML.
const GALLERY = (() => {
  const PAGE = 60;
  const CACHED = 24; // scripts of images that are kept after they were loaded
  const PAUSE = 350; // milliseconds between two changes of the address, at least
  const DEFAULTS = {
    stage: "image", text: "", split: "", label: "", status: "", order: "name", page: "1",
    score: "", agreement: "", image: "", view: "overlay", layers: null, arrangement: "grid",
  };
  const ORDERS = {
    name: "File name",
    best: "Best score first", weakest: "Weakest score first",
    right: "Best agreement first", wrong: "Worst agreement first",
    many: "Most masks first",
  };
  // Explains the agreement with the ground truth: its images, and how clusters were matched.
  function meaningOfAgreement() {
    const { split, images, methods } = data.matched;
    const matching = methods.map((name) => name[0].toUpperCase() + name.slice(1)).join(" and ");
    return `Mean IoU over the classes of one image of “${split}”; clusters are matched with classes by ${matching} matching on all ${NUMBER.format(images)} images of “${split}”`;
  }
  const NUMBER = new Intl.NumberFormat("en");
  const $ = (id) => document.getElementById(id);

  let data, stages, stageById, byKey, shown = [], state = {}, focusAfter = null;
  let written = null, writtenAt = -Infinity, waiting = 0; // last address, time when it was written, timer of the next
  const loaded = new Map(); // path → content of an image's script
  const loading = new Map(); // path → promise

  // Small helpers

  function element(tag, properties = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "style") for (const [key, v] of Object.entries(value)) node.style.setProperty(key, v);
      else if (name in node && name !== "list") node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  function drawn(tag, attributes) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  }

  const keyOf = (image) => `${image.split}/${image.id}`;
  const pathOf = (image) => `${image.split}/${String(image.shard).padStart(4, "0")}/${image.id}`;
  const percent = (value) => (value === undefined || value === null ? "–" : `${(100 * value).toFixed(1)} %`);
  const plural = (count, noun) => `${NUMBER.format(count)} ${noun}${count === 1 ? "" : "s"}`;
  const range = (text) => (/^[\d.]+-[\d.]+$/.test(text) ? text.split("-").map(Number) : null);
  const dot = (colour) => element("span", { className: "dot", style: { background: colour } });

  // The stage whose agreement the filters use. If the grid shows images or the ground truth, this is
  // the last stage that has an agreement.
  function judged() {
    const scored = data.images.find((image) => image.agreement && Object.keys(image.agreement).length);
    if (state.stage !== "image" && state.stage !== "ground_truth") return state.stage;
    return scored ? Object.keys(scored.agreement).pop() : "image";
  }
  // The stage whose clusters the filters list. If the grid shows images, these are the initial masks.
  function labelled() {
    if (state.stage !== "image") return stageById.get(state.stage);
    return stageById.get("masks") || stages.find((stage) => stage.labels.length);
  }
  const labelOf = (stage, id) => stageById.get(stage)?.labels.find((label) => label.id === id);
  const labelText = (label) => (label.class ? `${label.name} → ${label.class}` : label.name);

  function bestScore(image, label) {
    let best;
    for (const [cluster, score] of image.scores || []) {
      if ((!label || cluster === label) && (best === undefined || score > best)) best = score;
    }
    return best;
  }

  // State and address

  function read() {
    const given = new URLSearchParams(location.hash.slice(1));
    const next = { ...DEFAULTS };
    for (const key of Object.keys(DEFAULTS)) if (given.has(key)) next[key] = given.get(key);
    if (!stageById.has(next.stage)) next.stage = DEFAULTS.stage;
    if (!(next.order in ORDERS)) next.order = DEFAULTS.order;
    if (next.view !== "compare") next.view = DEFAULTS.view;
    if (next.arrangement !== "map" || !data.map.length) next.arrangement = DEFAULTS.arrangement;
    return next;
  }

  function addressOf(shown) {
    const parts = new URLSearchParams();
    for (const [key, value] of Object.entries(shown)) {
      if (value !== DEFAULTS[key] && value !== null) parts.set(key, value);
    }
    return `#${parts}`;
  }

  // Every change of the state is shown at once. The address may follow a little later, because
  // browsers let a page change it only a few times per second, while sliders and held keys change
  // the state more often.
  function go(changes, { replace = false } = {}) {
    const next = { ...state, ...changes };
    if (!("page" in changes) && !("image" in changes) && !("layers" in changes) && !("view" in changes)) next.page = "1";
    if (addressOf(next) === addressOf(state)) return;
    if (waiting && !replace) write();
    const before = state;
    state = next;
    const pause = writtenAt + PAUSE - performance.now();
    if (!replace) write(true);
    else if (pause <= 0) write();
    else if (!waiting) waiting = setTimeout(write, pause);
    show(before);
  }

  function write(push = false) {
    clearTimeout(waiting);
    waiting = 0;
    [written, writtenAt] = [addressOf(state), performance.now()];
    if (push === true) location.hash = written;
    else location.replace(written);
  }

  function follow() {
    if ((location.hash || "#") === written) return; // the page itself wrote this address, and shows it already
    clearTimeout(waiting);
    waiting = 0;
    const before = state;
    state = read();
    written = location.hash || "#";
    show(before);
  }

  function show(before) {
    const filters = ["stage", "text", "split", "label", "status", "order", "score", "agreement", "page", "arrangement"];
    if (filters.some((key) => before[key] !== state[key])) {
      fillFilters();
      select();
      drawGrid();
    }
    const image = state.image && byKey.get(state.image);
    if (image) open(image, before.image !== state.image);
    else close(before.image);
  }

  // Filters

  function passes(image, without = "") {
    const label = Number(state.label) || 0;
    if (state.split && image.split !== state.split) return false;
    if (state.status && !(state.status === "ok" ? !image.status.length : image.status.includes(state.status))) return false;
    if (state.text) {
      const wanted = state.text.toLowerCase();
      if (!image.name.toLowerCase().includes(wanted) && String(image.id) !== wanted) return false;
    }
    if (label) {
      const labels = image.labels || {};
      const found = state.stage === "image" ? Object.entries(labels).some(([stage, ids]) => stage !== "ground_truth" && ids.includes(label)) : (labels[state.stage] || []).includes(label);
      if (!found) return false;
    }
    const score = without !== "score" && range(state.score);
    if (score) {
      const best = bestScore(image, state.stage === "ground_truth" ? 0 : label);
      if (best === undefined || best < score[0] || best > score[1]) return false;
    }
    const agreement = without !== "agreement" && range(state.agreement);
    if (agreement) {
      const value = image.agreement?.[judged()];
      if (value === undefined || value < agreement[0] || value > agreement[1]) return false;
    }
    return true;
  }

  function select() {
    shown = data.images.filter((image) => passes(image));
    const label = state.stage === "ground_truth" ? 0 : Number(state.label) || 0;
    const stage = judged();
    // Images without a value come last, both in ascending and in descending order.
    const by = (value, sign) => (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      return sign * (x - y);
    };
    const score = (image) => bestScore(image, label);
    const agreement = (image) => image.agreement?.[stage];
    const orders = {
      best: by(score, -1), weakest: by(score, 1), right: by(agreement, -1), wrong: by(agreement, 1),
      many: by((image) => image.masks, -1),
    };
    if (orders[state.order]) shown.sort(orders[state.order]);
    if (state.stage !== "image") {
      // Some stages exist for evaluated images only. Images that have the stage come first.
      const has = (image) => Boolean(image.tiles?.includes(state.stage));
      shown = [...shown.filter(has), ...shown.filter((image) => !has(image))];
    }
  }

  function options(select, entries, value) {
    select.replaceChildren(...entries.map(([key, text]) => element("option", { value: key, textContent: text })));
    select.value = value;
    if (select.value !== value) select.value = "";
  }

  function fillFilters() {
    const form = $("form");
    const stage = labelled();
    const counts = new Map(), statuses = new Map();
    for (const image of data.images) {
      const ids = state.stage === "image" ? Object.entries(image.labels || {}).flatMap(([name, found]) => (name === "ground_truth" ? [] : found)) : image.labels?.[state.stage] || [];
      for (const id of new Set(ids)) counts.set(id, (counts.get(id) || 0) + 1);
      for (const status of image.status) statuses.set(status, (statuses.get(status) || 0) + 1);
    }
    $("label-kind").textContent = state.stage === "ground_truth" ? "Class" : "Cluster";
    const labels = (stage?.labels || []).map((label) => [String(label.id), `${labelText(label)} (${NUMBER.format(counts.get(label.id) || 0)})`]);
    options(form.label, [["", "all"], ...labels], state.label);
    options(form.split, [["", "all"], ...data.splits.map((split) => [split, split])], state.split);
    $("split-field").hidden = data.splits.length < 2;
    const fine = data.images.filter((image) => !image.status.length).length;
    const listed = [...statuses].sort((a, b) => b[1] - a[1]).map(([status, count]) => [status, `${status} (${NUMBER.format(count)})`]);
    options(form.status, [["", "all"], ["ok", `ok (${NUMBER.format(fine)})`], ...listed], state.status);
    const agreed = data.evaluated !== null;
    options(form.order, Object.entries(ORDERS).filter(([key]) => agreed || (key !== "right" && key !== "wrong")), state.order);
    if (document.activeElement !== form.text) form.text.value = state.text;
    $("agreement-field").hidden = $("matched").hidden = !agreed;
    fillSpan("score", (image) => bestScore(image, state.stage === "ground_truth" ? 0 : Number(state.label) || 0));
    if (agreed) {
      const name = stageById.get(judged())?.title;
      $("agreement-field").firstElementChild.textContent = `Agreement with ground truth${name ? `: ${name}` : ""}`;
      $("matched").textContent = `${meaningOfAgreement()}.`;
      fillSpan("agreement", (image) => image.agreement?.[judged()]);
    }
    const active = ["text", "split", "label", "status", "score", "agreement"].filter((key) => state[key]).length;
    $("active").textContent = active ? `${active} active` : "";
    for (const button of $("stages").children) {
      const chosen = button.value === state.stage;
      button.setAttribute("aria-checked", chosen);
      button.tabIndex = chosen ? 0 : -1;
      // On a phone the list of stages scrolls sideways, so the chosen one is brought into view.
      if (chosen) $("stages").scrollLeft = button.offsetLeft - $("stages").offsetLeft - 40;
    }
  }

  // A filter with two sliders, above them a histogram of the images that pass all other filters.
  function makeSpan(name) {
    const field = $(`${name}-field`);
    const title = field.firstElementChild.textContent;
    const slider = (which, value) => element("input", { type: "range", name: `${name}-${which}`, min: "0", max: "1", step: "0.01", value, "aria-label": `${title}, ${which}` });
    const [low, high] = [slider("least", "0"), slider("most", "1")];
    const change = () => {
      const [a, b] = [Number(low.value), Number(high.value)].sort((x, y) => x - y);
      go({ [name]: a <= 0 && b >= 1 ? "" : `${a}-${b}` }, { replace: true });
    };
    low.addEventListener("input", change);
    high.addEventListener("input", change);
    field.append(element("div", { className: "span" }, drawn("svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none", "aria-hidden": "true" }), low, high, element("div", { className: "ends" }, element("span"), element("span"))));
  }

  function fillSpan(name, valueOf) {
    const field = $(`${name}-field`);
    const [low, high] = field.querySelectorAll("input");
    const [from, to] = range(state[name]) || [0, 1];
    if (document.activeElement !== low && document.activeElement !== high) [low.value, high.value] = [from, to];
    const bins = new Array(25).fill(0);
    for (const image of data.images) {
      const value = passes(image, name) ? valueOf(image) : undefined;
      if (value !== undefined) bins[Math.min(24, Math.floor(value * 25))] += 1;
    }
    const most = Math.max(1, ...bins);
    field.querySelector("svg").replaceChildren(...bins.map((count, i) => {
      const height = count ? 2 + (38 * count) / most : 0;
      const inside = (i + 1) / 25 > from && i / 25 < to;
      return drawn("rect", { x: i * 4 + 0.3, y: 40 - height, width: 3.4, height, class: inside ? "in" : "" });
    }));
    const ends = field.querySelectorAll(".ends span");
    ends[0].textContent = from.toFixed(2);
    ends[1].textContent = to.toFixed(2);
  }

  function clearFilters() {
    $("form").text.value = "";
    go({ text: "", split: "", label: "", status: "", score: "", agreement: "", order: "name" });
  }

  // The grid

  const pages = () => Math.max(1, Math.ceil(shown.length / PAGE));
  const page = () => Math.min(Math.max(1, Math.floor(Number(state.page)) || 1), pages());

  function drawGrid() {
    const map = state.arrangement === "map";
    $("map").hidden = !map;
    $("grid").hidden = map;
    for (const button of $("arrangement").children) {
      button.setAttribute("aria-checked", button.value === state.arrangement);
      button.tabIndex = button.value === state.arrangement ? 0 : -1;
    }
    if (map) drawMap();
    const first = (page() - 1) * PAGE;
    const some = shown.slice(first, first + PAGE);
    $("grid").replaceChildren(...some.map(tile));
    $("empty").hidden = shown.length > 0;
    const count = $("count");
    count.replaceChildren(element("strong", { textContent: NUMBER.format(shown.length) }), ` of ${plural(data.images.length, "image")}`);
    for (const pager of document.querySelectorAll(".pager")) drawPager(pager);
    if (focusAfter !== null) {
      const tiles = $("grid").children;
      tiles[Math.min(focusAfter, tiles.length - 1)]?.focus();
      focusAfter = null;
    }
  }

  function drawPager(pager) {
    const turn = (to) => { go({ page: String(to) }); scrollTo({ top: 0 }); };
    const button = (text, name, to, enabled) => {
      const node = element("button", { type: "button", textContent: text, disabled: !enabled, "aria-label": name, title: name });
      node.addEventListener("click", () => turn(to));
      return node;
    };
    const number = element("input", { inputMode: "numeric", value: String(page()), "aria-label": "Page" });
    number.addEventListener("change", () => turn(Math.min(Math.max(1, Math.floor(Number(number.value)) || 1), pages())));
    pager.replaceChildren(button("‹", "Previous page (p)", page() - 1, page() > 1), number, `of ${NUMBER.format(pages())}`, button("›", "Next page (n)", page() + 1, page() < pages()));
    pager.hidden = pages() === 1 || state.arrangement === "map";
  }

  // The map. Points are drawn in the order of the data, so that overlaps always look the same.

  const MARGIN = 14;
  let places = []; // of the points that are drawn: [x, y, image, label], in pixels of the page

  function drawMap() {
    const canvas = $("map").querySelector("canvas");
    const width = $("map").clientWidth, height = Math.max(320, Math.min(0.72 * width, innerHeight - 190));
    const scale = devicePixelRatio || 1;
    [canvas.width, canvas.height] = [width * scale, height * scale];
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    const passing = new Set(shown.map((image) => image.id));
    const byId = new Map(data.images.map((image) => [image.id, image]));
    const radius = data.map.length > 5000 ? 2 : data.map.length > 800 ? 3 : 4.5;
    const wanted = state.stage === "ground_truth" ? 0 : Number(state.label) || 0;
    places = [];
    for (const [id, cluster, x, y] of data.map) {
      const image = byId.get(id);
      if (!image) continue;
      const label = labelOf("masks", cluster);
      const at = [MARGIN + x * (width - 2 * MARGIN), MARGIN + y * (height - 2 * MARGIN)];
      const fades = !passing.has(id) || (wanted && cluster !== wanted);
      context.globalAlpha = fades ? 0.12 : 0.85;
      context.fillStyle = label ? label.colour : "#888888";
      context.beginPath();
      context.arc(...at, radius, 0, 2 * Math.PI);
      context.fill();
      if (!fades) places.push([...at, image, label]);
    }
    $("spot").hidden = true;
  }

  function nearestPlace(event) {
    const box = event.currentTarget.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = null, least = 14 ** 2;
    for (const place of places) {
      const distance = (place[0] - x) ** 2 + (place[1] - y) ** 2;
      if (distance < least) [best, least] = [place, distance];
    }
    return best;
  }

  function pointAt(place) {
    const spot = $("spot");
    spot.hidden = !place;
    if (!place) return;
    const [x, y, image, label] = place;
    const number = image.tiles.indexOf("masks") + 1;
    spot.style.setProperty("--aspect", (image.size[0] / image.size[1]).toFixed(4));
    spot.style.setProperty("--tiles", image.tiles.length + 1);
    spot.style.setProperty("--tile", number);
    const source = `images/${pathOf(image)}.jpg`;
    const picture = spot.querySelector("img");
    if (picture.getAttribute("src") !== source) picture.src = source;
    spot.querySelector(".caption").replaceChildren(...(label ? [dot(label.colour), ` ${labelText(label)} `] : []), image.name.split("/").pop());
    const room = $("map").clientWidth;
    spot.style.left = `${x + 204 > room ? x - 204 : x + 14}px`;
    spot.style.top = `${Math.max(0, y - 60)}px`;
  }

  function tile(image) {
    const button = element("button", { type: "button", className: "tile", title: image.name });
    const aspect = image.size ? Math.min(Math.max(image.size[0] / image.size[1], 0.45), 2.8) : 1.33;
    button.style.setProperty("--aspect", aspect.toFixed(4));
    button.dataset.key = keyOf(image);
    const frame = element("span", { className: "frame" });
    if (image.size) {
      const number = state.stage === "image" ? 0 : image.tiles.indexOf(state.stage) + 1;
      const missing = state.stage !== "image" && number === 0;
      frame.style.setProperty("--tiles", image.tiles.length + 1);
      frame.style.setProperty("--tile", number);
      if (missing) frame.title = `This image has no result of the stage “${stageById.get(state.stage).title}”`;
      frame.append(element("img", { src: `images/${pathOf(image)}.jpg`, loading: "lazy", decoding: "async", alt: missing ? `${image.name}, without this stage` : image.name, style: missing ? { opacity: "0.35" } : {} }));
    } else {
      frame.append(element("span", { className: "reason", textContent: image.reason }));
    }
    const caption = element("span", { className: "caption" }, element("span", { className: "file", textContent: image.name.split("/").pop() }));
    if (state.stage !== "image" && image.labels) {
      const dots = element("span", { className: "dots" });
      for (const id of (image.labels[state.stage] || []).slice(0, 5)) {
        const label = labelOf(state.stage, id);
        if (label) dots.append(element("span", { className: "dot", title: labelText(label), style: { background: label.colour } }));
      }
      caption.append(dots);
    }
    const [value, meaning] = valueShown(image);
    if (value) caption.append(element("span", { className: "value", textContent: value, title: meaning }));
    button.append(frame, caption);
    button.addEventListener("click", () => go({ image: keyOf(image) }));
    return button;
  }

  function valueShown(image) {
    const ordered = { best: "score", weakest: "score", right: "agreement", wrong: "agreement" }[state.order];
    const scored = state.stage === "candidates" || (state.stage === "mask_rcnn" && data.evaluated === null);
    const kind = ordered || (scored ? "score" : ["image", "ground_truth"].includes(state.stage) ? "" : "agreement");
    if (kind === "score") return [bestScore(image, state.stage === "ground_truth" ? 0 : Number(state.label) || 0)?.toFixed(2), "Score of the best candidate"];
    const agreement = kind && image.agreement?.[judged()];
    return agreement === undefined || !kind ? [] : [percent(agreement), meaningOfAgreement()];
  }

  // One image

  function load(image) {
    const path = pathOf(image);
    if (loaded.has(path)) return Promise.resolve(loaded.get(path));
    if (!loading.has(path)) {
      loading.set(path, new Promise((resolve, reject) => {
        const script = element("script", { src: `images/${path}.js` });
        script.onload = () => { script.remove(); loading.delete(path); loaded.has(path) ? resolve(loaded.get(path)) : reject(new Error("empty")); };
        script.onerror = () => { script.remove(); loading.delete(path); reject(new Error("missing")); };
        document.head.append(script);
      }));
    }
    return loading.get(path);
  }

  function receive([path, content]) {
    loaded.set(path, content);
    if (loaded.size > CACHED) loaded.delete(loaded.keys().next().value);
  }

  const position = () => shown.findIndex((image) => keyOf(image) === state.image);
  const visible = (image) => {
    if (state.layers !== null) return new Set(state.layers ? state.layers.split(",") : []);
    // Until the user chooses overlays: all stages if they are shown side by side. Otherwise the stage
    // that the grid shows, or the last stage if the grid shows images.
    if (state.view === "compare") return new Set(image.tiles);
    const first = state.stage !== "image" ? state.stage : (image.tiles || []).filter((stage) => stage !== "ground_truth").pop();
    return new Set(first ? [first] : []);
  };

  function open(image, changed) {
    const dialog = $("viewer");
    if (!dialog.open) {
      dialog.showModal();
      $("stage").focus();
    }
    const at = position();
    $("title").textContent = image.name;
    $("position").textContent = at < 0 ? "does not pass the filters" : `${NUMBER.format(at + 1)} of ${NUMBER.format(shown.length)}`;
    $("previous").disabled = at <= 0;
    $("next").disabled = at < 0 || at === shown.length - 1;
    document.title = `${image.name} – ${data.dataset}`;
    for (const button of $("views").children) {
      button.setAttribute("aria-checked", button.value === state.view);
      button.tabIndex = button.value === state.view ? 0 : -1;
    }
    if (!image.size) {
      $("stage").replaceChildren(element("p", { className: "message", textContent: `This image was left out: ${image.reason}` }));
      for (const id of ["layers", "legend", "facts"]) $(id).replaceChildren();
      for (const id of ["views", "opacity-field", "floor-field"]) $(id).hidden = true;
      return;
    }
    if (changed) $("stage").scrollTop = 0;
    load(image).then((content) => {
      if (state.image === keyOf(image)) drawImage(image, content, changed);
      for (const near of [shown[at + 1], shown[at - 1]]) if (at >= 0 && near?.size) load(near).catch(() => {});
    }).catch(() => {
      $("stage").replaceChildren(element("p", { className: "message", textContent: `images/${pathOf(image)}.js cannot be loaded; is the gallery's folder complete?` }));
    });
  }

  function close(key) {
    const dialog = $("viewer");
    if (!dialog.open) return;
    dialog.close();
    document.title = `${data.dataset} – MaskDistill gallery`;
    // Return to the image in the grid. Filters may have moved it to another page.
    const at = shown.findIndex((image) => keyOf(image) === key);
    if (at < 0) return;
    const there = Math.floor(at / PAGE) + 1;
    focusAfter = at % PAGE;
    if (there !== page()) go({ page: String(there) }, { replace: true });
    else drawGrid();
  }

  function step(by) {
    const at = position();
    const next = at < 0 ? undefined : shown[at + by];
    if (next) go({ image: keyOf(next) }, { replace: true });
  }

  const fitting = (image) => stages.filter((stage) => (image.tiles || []).includes(stage.id));

  function drawImage(image, content, changed) {
    for (const id of ["views", "opacity-field"]) $(id).hidden = false;
    if (changed) {
      const confident = content.candidates.filter((candidate) => candidate.confident).map((candidate) => candidate.score);
      $("floor").value = confident.length ? Math.max(0, Math.floor(Math.min(...confident) * 100) / 100) : 0;
    }
    drawLayers(image);
    drawStage(image, content);
    drawLegend(image, content);
    drawFacts(image, content);
  }

  function drawLayers(image) {
    const on = visible(image);
    const rows = fitting(image).map((stage, i) => {
      const box = element("input", { type: "checkbox", value: stage.id, checked: on.has(stage.id) });
      box.addEventListener("change", () => toggle(stage.id));
      const agreement = image.agreement?.[stage.id];
      return element("label", {}, box, element("span", { textContent: stage.title }), element("span", { className: "value", textContent: agreement === undefined ? "" : percent(agreement), title: agreement === undefined ? "" : meaningOfAgreement() }), element("kbd", { textContent: i < 9 ? String(i + 1) : "" }));
    });
    $("layers").replaceChildren(element("legend", { textContent: state.view === "compare" ? "Panels" : "Overlays" }), ...rows);
    $("floor-field").hidden = !on.has("candidates");
    $("floor-value").textContent = Number($("floor").value).toFixed(2);
  }

  function toggle(stage) {
    const image = byKey.get(state.image);
    const on = visible(image);
    if (!on.delete(stage)) on.add(stage);
    go({ layers: fitting(image).map((s) => s.id).filter((id) => on.has(id)).join(",") }, { replace: true });
  }

  function drawStage(image, content) {
    const on = visible(image);
    const chosen = fitting(image).filter((stage) => on.has(stage.id));
    if (state.view === "overlay") {
      $("stage").replaceChildren(picture(image, content, chosen.map((stage) => stage.id)));
      return;
    }
    const figure = (title, ids) => {
      const agreement = ids.length ? image.agreement?.[ids[0]] : undefined;
      return element("figure", {}, picture(image, content, ids), element("figcaption", {}, element("span", { textContent: title }), element("span", { className: "value", textContent: agreement === undefined ? "" : percent(agreement) })));
    };
    $("stage").replaceChildren(element("div", { className: "panels" }, figure("Image", []), ...chosen.map((stage) => figure(stage.title, [stage.id]))));
  }

  function picture(image, content, ids) {
    const node = element("div", { className: ids.length ? "picture painted" : "picture" });
    node.style.setProperty("--aspect", image.size[0] / image.size[1]);
    node.append(element("img", { src: content.picture, alt: image.name }));
    const opacity = $("opacity").value;
    for (const id of ids) {
      if (id === "candidates") candidateLayers(node, content, opacity);
      else if (content.layers[id]) {
        node.append(element("img", { className: "layer", src: content.layers[id], alt: stageById.get(id).title, style: { opacity } }));
      }
    }
    return node;
  }

  const isDrawn = (candidate) => candidate.score >= Number($("floor").value);

  function candidateLayers(node, content, opacity) {
    const boxes = drawn("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
    const scores = [];
    // The best candidate is drawn last, so that it is on top.
    for (const candidate of content.candidates.filter(isDrawn).reverse()) {
      const [x, y, width, height] = candidate.box;
      const label = labelOf("candidates", candidate.cluster);
      const colour = label?.colour || "#888888";
      node.append(element("img", { className: "layer", src: candidate.layer, alt: "", "data-candidate": candidate.id, style: { opacity } }));
      boxes.append(drawn("rect", { x, y, width, height, stroke: colour, "data-candidate": candidate.id }));
      const light = [1, 3, 5].reduce((sum, i, k) => sum + parseInt(colour.slice(i, i + 2), 16) * [0.3, 0.59, 0.11][k], 0) > 140;
      scores.push(element("span", { className: y < 0.07 ? "score inside" : "score", textContent: `${candidate.cluster} · ${candidate.score.toFixed(2)}`, "data-candidate": candidate.id, style: { left: `${100 * x}%`, top: `${100 * y}%`, background: colour, color: light ? "#14171a" : "#ffffff" } }));
    }
    node.append(boxes, ...scores);
  }

  function highlight(candidate) {
    for (const node of $("stage").querySelectorAll("[data-candidate]")) {
      node.classList.toggle("weak", candidate !== null && node.getAttribute("data-candidate") !== String(candidate));
    }
  }

  function drawLegend(image, content) {
    // The legend lists only labels that are drawn.
    const drawnOf = (stage) => (stage === "candidates" ? content.candidates.filter(isDrawn).map((candidate) => candidate.cluster).sort((a, b) => a - b) : image.labels[stage] || []);
    const entries = new Map();
    for (const stage of visible(image)) {
      for (const id of drawnOf(stage)) {
        const label = labelOf(stage, id);
        if (label) entries.set(`${label.colour} ${labelText(label)}`, { stage, label });
      }
    }
    $("legend").replaceChildren(...[...entries.values()].map(({ stage, label }) => {
      const button = element("button", { type: "button", title: `Show all images with ${label.name} in ${stageById.get(stage).title}` }, dot(label.colour), element("span", { textContent: labelText(label) }));
      button.addEventListener("click", () => go({ image: "", stage, label: String(label.id), text: "", status: "", score: "", agreement: "" }));
      return element("li", {}, button);
    }));
  }

  function drawFacts(image, content) {
    const fact = (name, ...value) => [element("dt", { textContent: name }), element("dd", {}, ...value)];
    const list = element("dl", {}, ...fact("File", image.name), ...fact("Id", String(image.id)), ...fact("Split", `${image.split}, shard ${String(image.shard).padStart(4, "0")}`), ...fact("Size", `${image.size[0]} × ${image.size[1]} px`));
    if (image.status.length) list.append(...fact("Status", ...image.status.map((status) => element("span", { className: "note", textContent: status }))));
    const parts = [list];
    const clusterCell = (stage, id) => {
      const label = id === null ? null : labelOf(stage, id);
      return label ? element("td", {}, dot(label.colour), labelText(label)) : element("td", { textContent: "–" });
    };
    const head = (...names) => element("thead", {}, element("tr", {}, ...names.map((name) => element("th", { textContent: name, scope: "col" }))));
    const cell = (text) => element("td", { textContent: text });
    if (content.masks.length) {
      const rows = content.masks.map((mask) => element("tr", {}, mask.status === "ok" ? clusterCell("masks", mask.cluster) : cell(mask.status), cell(mask.distance === null ? "–" : String(mask.distance)), cell(percent(mask.area))));
      parts.push(element("div", {}, element("h3", { textContent: "Initial masks" }), element("table", {}, head("Cluster", "Distance", "Area"), element("tbody", {}, ...rows))));
    }
    if (content.candidates.length) {
      const rows = content.candidates.map((candidate) => {
        const row = element("tr", { className: "link", title: candidate.confident ? "confident: kept in the label map" : "not confident enough" }, clusterCell("candidates", candidate.cluster), cell(candidate.score.toFixed(3)), cell(candidate.confident ? "✓" : ""), cell(percent(candidate.area)));
        row.addEventListener("mouseenter", () => highlight(candidate.id));
        row.addEventListener("mouseleave", () => highlight(null));
        return row;
      });
      const more = content.all_candidates - content.candidates.length;
      const title = `Candidates${data.threshold === null ? "" : `, confident above ${data.threshold}`}${more > 0 ? ` (${more} weaker ones left out)` : ""}`;
      parts.push(element("div", {}, element("h3", { textContent: title }), element("table", {}, head("Cluster", "Score", "Kept", "Area"), element("tbody", {}, ...rows))));
    }
    $("facts").replaceChildren(...parts);
  }

  // Keys

  function segments(node, entries, choose) {
    node.replaceChildren(...entries.map(([value, title]) => {
      const button = element("button", { type: "button", value, textContent: title, role: "radio" });
      button.addEventListener("click", () => choose(value));
      return button;
    }));
    node.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const buttons = [...node.children];
      const next = buttons[buttons.indexOf(document.activeElement) + by];
      if (!by || !next) return;
      event.preventDefault();
      event.stopPropagation();
      next.focus();
      next.click();
    });
  }

  function gridKey(event) {
    const tiles = [...$("grid").children];
    const at = tiles.indexOf(document.activeElement);
    if (event.key === "n" && page() < pages()) go({ page: String(page() + 1) });
    else if (event.key === "p" && page() > 1) go({ page: String(page() - 1) });
    else if (event.key === "s") {
      const ids = ["image", ...stages.filter((stage) => stage.id !== "image").map((stage) => stage.id)];
      focusAfter = at < 0 ? null : at;
      go({ stage: ids[(ids.indexOf(state.stage) + 1) % ids.length], label: keptLabel(ids[(ids.indexOf(state.stage) + 1) % ids.length]) });
    } else if (event.key === "/") $("form").text.focus();
    else if (event.key.startsWith("Arrow")) {
      const next = at < 0 ? tiles[0] : neighbour(tiles, at, event.key);
      if (!next) return;
      next.focus();
    } else return;
    event.preventDefault();
  }

  // Rows have different numbers of images. Therefore the image above or below is found by position.
  function neighbour(tiles, at, key) {
    if (key === "ArrowRight") return tiles[at + 1];
    if (key === "ArrowLeft") return tiles[at - 1];
    const here = tiles[at].getBoundingClientRect();
    const middle = here.left + here.width / 2;
    const ahead = (key === "ArrowDown" ? tiles.slice(at + 1) : tiles.slice(0, at).reverse()).map((tile) => [tile, tile.getBoundingClientRect()]).filter(([, box]) => Math.abs(box.top - here.top) > 4);
    const row = ahead.filter(([, box]) => Math.abs(box.top - ahead[0][1].top) < 4);
    row.sort((a, b) => Math.abs((a[1].left + a[1].right) / 2 - middle) - Math.abs((b[1].left + b[1].right) / 2 - middle));
    return row[0]?.[0];
  }

  function viewerKey(event) {
    const image = byKey.get(state.image);
    if (event.key === "ArrowRight") step(1);
    else if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "c") go({ view: state.view === "compare" ? "overlay" : "compare" }, { replace: true });
    else if (event.key === "0") go({ layers: "" }, { replace: true });
    else if (/^[1-9]$/.test(event.key) && fitting(image)[event.key - 1]) toggle(fitting(image)[event.key - 1].id);
    else return;
    event.preventDefault();
  }

  // All stages have the same clusters, so a chosen cluster is kept when the stage changes. The ground
  // truth has classes instead, so a change from or to it clears the choice.
  const keptLabel = (stage) => ((stage === "ground_truth") === (state.stage === "ground_truth") ? state.label : "");

  function start(content) {
    data = content;
    data.images.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : a.split < b.split ? -1 : 1));
    stages = data.stages;
    stageById = new Map([["image", { id: "image", title: "Image", labels: [] }], ...stages.map((stage) => [stage.id, stage])]);
    byKey = new Map(data.images.map((image) => [keyOf(image), image]));
    $("dataset").textContent = data.dataset;
    document.title = `${data.dataset} – MaskDistill gallery`;
    segments($("stages"), [...stageById].map(([id, stage]) => [id, stage.title]), (stage) => go({ stage, label: keptLabel(stage) }));
    segments($("views"), [["overlay", "Overlay"], ["compare", "Side by side"]], (view) => go({ view }, { replace: true }));
    segments($("arrangement"), [["grid", "Grid"], ["map", "Map"]], (arrangement) => go({ arrangement }));
    $("arrangement").hidden = !data.map.length;
    const canvas = $("map").querySelector("canvas");
    canvas.addEventListener("pointermove", (event) => pointAt(nearestPlace(event)));
    canvas.addEventListener("pointerleave", () => pointAt(null));
    canvas.addEventListener("click", (event) => { const place = nearestPlace(event); if (place) go({ image: keyOf(place[2]) }); });
    addEventListener("resize", () => { if (state.arrangement === "map") drawMap(); });
    makeSpan("score");
    makeSpan("agreement");
    const form = $("form");
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", (event) => { event.preventDefault(); clearFilters(); });
    form.text.addEventListener("input", () => go({ text: form.text.value.trim() }, { replace: true }));
    for (const name of ["split", "label", "status", "order"]) form[name].addEventListener("change", () => go({ [name]: form[name].value }));
    $("clear").addEventListener("click", clearFilters);
    $("previous").addEventListener("click", () => step(-1));
    $("next").addEventListener("click", () => step(1));
    $("close").addEventListener("click", () => go({ image: "" }));
    $("viewer").addEventListener("cancel", (event) => { event.preventDefault(); go({ image: "" }); });
    $("viewer").addEventListener("click", (event) => { if (event.target === $("viewer")) go({ image: "" }); });
    const redraw = () => { const image = byKey.get(state.image); const found = loaded.get(pathOf(image)); if (found) { drawLayers(image); drawStage(image, found); drawLegend(image, found); } };
    $("opacity").addEventListener("input", redraw);
    $("floor").addEventListener("input", redraw);
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const typing = event.target.matches?.("input[type=search], input[inputmode], select");
      if (event.target.matches?.("input[type=range]") && event.key.startsWith("Arrow")) return;
      if (typing) { if (event.key === "Escape") event.target.blur(); return; }
      if ($("viewer").open) viewerKey(event);
      else gridKey(event);
    });
    if (matchMedia("(max-width: 900px)").matches) $("filters").open = false;
    addEventListener("hashchange", follow);
    follow();
  }

  return { index: start, image: receive };
})();
