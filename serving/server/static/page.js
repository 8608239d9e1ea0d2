/* The page of the server: which model and versions are looked at, and where images come from. */

import { Cards, keyOf } from "./cards.js";
import { byId, count, element, percent } from "./dom.js";
import { frame } from "./images.js";

const REFRESH_MS = 4000;
const NEWEST = ""; // choice of a version: whatever is newest at the time

// What is served, as page/models.json says; then what the person chose.
let models = [];
let seen = "";
const chosen = { model: null, version: NEWEST, other: null };
const cards = new Cards(refresh);

function versions() {
  return models.find((model) => model.name === chosen.model)?.versions ?? [];
}

/** The versions whose answers are shown: one, or two to compare. */
function shown() {
  const first = chosen.version === NEWEST ? versions()[0] : find(chosen.version);
  const second = chosen.other && find(chosen.other);
  return [first, second].filter(Boolean);
}

function find(number) {
  return versions().find((version) => version.number === number);
}

// --- What is served ---

let started = 0;
let taken = 0;

async function refresh() {
  const turn = (started += 1);
  const text = await look();
  if (turn < taken) return; // a later look was faster
  taken = turn;
  if (text !== null && text !== seen) {
    seen = text;
    models = JSON.parse(text).models;
    settle();
    drawPanel();
  }
  drawHealth(text !== null);
}

/** page/models.json, or null when nothing, or something else, answers. */
async function look() {
  try {
    const answer = await fetch("page/models.json", { cache: "no-store" });
    return answer.ok ? JSON.stringify(await answer.json()) : null;
  } catch {
    return null;
  }
}

/** Moves a choice that is no longer served to the newest version, and says so. */
function settle() {
  if (!models.some((model) => model.name === chosen.model)) {
    if (chosen.model !== null) notice(`Model ${chosen.model} is no longer served.`);
    Object.assign(chosen, { model: models[0]?.name ?? null, version: NEWEST, other: null });
  }
  const newest = versions()[0];
  if (chosen.version !== NEWEST && !find(chosen.version)) {
    const instead = newest ? `version ${newest.number} answers now` : "no other is loaded";
    notice(`Version ${chosen.version} is no longer loaded; ${instead}.`);
    chosen.version = NEWEST;
  }
  if (chosen.other && !find(chosen.other)) {
    notice(`Version ${chosen.other} is no longer loaded; there is nothing to compare with.`);
    chosen.other = null;
  }
  if (chosen.other === shown()[0]?.number) chosen.other = null;
}

async function follow() {
  if (!document.hidden) await refresh();
  setTimeout(follow, REFRESH_MS);
}

// --- The panel ---

function drawPanel() {
  const first = shown()[0];
  const others = versions().filter((version) => version !== first);
  byId("model-field").hidden = models.length < 2;
  byId("panel-title").textContent = models.length < 2 ? (chosen.model ?? "Model") : "Model";
  const names = models.map((model) => [model.name, model.name]);
  options(byId("model"), names, chosen.model);
  const follow = first ? "Newest" : "None is loaded";
  options(byId("version"), [[NEWEST, follow], ...versions().map(option)], chosen.version);
  options(byId("other"), [["", "Nothing"], ...others.map(option)], chosen.other ?? "");
  byId("version").disabled = !versions().length;
  byId("other").disabled = !others.length;
  byId("other-hint").hidden = others.length > 0 || !first;
  byId("facts").replaceChildren(...shown().map(facts));
  byId("facts").classList.toggle("two", shown().length > 1);
  const version = first?.number ?? "N";
  byId("address").textContent = `/v1/models/${chosen.model ?? "NAME"}/versions/${version}:predict`;
  document.title = chosen.model ? `${chosen.model}: image classifier` : "Image classifier";
  const loaded = models.flatMap((model) => model.versions.map((version) => keyOf(model.name, version)));
  cards.show(chosen.model, shown(), new Set(loaded));
}

function option(version) {
  return [version.number, [version.number, ...version.labels].join(", ")];
}

function options(select, choices, value) {
  select.replaceChildren(...choices.map(([key, text]) => element("option", { value: key }, text)));
  select.value = value ?? "";
}

function facts(version) {
  const mark = element("span.mark", { "aria-hidden": "true" });
  const chips = version.labels.map((label) => element("span.chip", {}, label));
  const head = element("h3", {}, mark, element("span.word", {}, "Version "), `${version.number} `, ...chips);
  const pushed = version.pushed && element("p.hint", {}, `Pushed ${date(version.pushed)}`);
  return element("div.fact", {}, head, pushed, ...accuracy(version), lacking(version));
}

function date(iso) {
  return new Date(iso).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

function accuracy({ evaluation, evaluation_error: error }) {
  if (!evaluation) return [element("p.hint", {}, error ?? "No evaluation came with this version.")];
  const { examples, protocol, protocols } = evaluation;
  const digits = examples < 10_000 ? 1 : 2;
  const right = (wrong) => (wrong == null ? null : percent(1 - wrong, digits));
  const { top1_error: wrong1, top5_error: wrong5 } = protocols[protocol];
  const top1 = right(wrong1);
  const top5 = right(wrong5);
  const measured = `on ${count(examples)} evaluation images, protocol ${protocol}`;
  return [
    top1 && element("p.number", {}, element("strong", {}, top1), " top-1 accuracy"),
    element("p.hint", {}, top5 ? `${top5} top-5, ${measured}` : measured),
    Object.keys(protocols).length > 1 || names(protocols).length > 2 ? every(protocols, right) : null,
  ];
}

/** What was measured: top1_error, top5_error and whatever else the Evaluator has. */
function names(protocols) {
  return [...new Set(Object.values(protocols).flatMap(Object.keys))];
}

/** "top1_error" is shown as an accuracy, "Top-1"; other names are read as they are. */
function title(name) {
  const words = name.replace(/_error$/, "").replace(/^top(\d+)$/, "top-$1").replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** The table of all protocols and metrics, folded away. */
function every(protocols, right) {
  const metrics = names(protocols);
  const titles = ["Protocol", ...metrics.map(title)].map((text) => element("th", { scope: "col" }, text));
  const rows = Object.entries(protocols).map(([name, values]) => {
    const cells = metrics.map((metric) => {
      const value = values[metric];
      const text = metric.endsWith("_error") ? right(value) : value?.toPrecision(4);
      return element("td", {}, text ?? "–");
    });
    return element("tr", {}, element("th", { scope: "row" }, name), ...cells);
  });
  const head = element("thead", {}, element("tr", {}, ...titles));
  const table = element("table", {}, head, element("tbody", {}, ...rows));
  return element("details", {}, element("summary", {}, "Every protocol"), table);
}

function lacking(version) {
  if (version.signatures.includes("top_k")) return null;
  const text = "This version has no signature top_k, so this page cannot show its answers; the API can.";
  return element("p.problem", {}, text);
}

function drawHealth(answered) {
  const states = {
    down: "No answer from the server; trying again",
    loading: "No version is loaded yet",
    ready: "Ready",
  };
  const state = !answered ? "down" : versions().length ? "ready" : "loading";
  const health = byId("health");
  if (health.dataset.state === state) return; // screen readers would say it again
  health.dataset.state = state;
  health.textContent = states[state];
}

function notice(text) {
  byId("notice").textContent = text;
}

function choose(change) {
  Object.assign(chosen, change);
  notice("");
  if (chosen.other === shown()[0]?.number) chosen.other = null;
  drawPanel();
}

byId("model").addEventListener("change", (e) =>
  choose({ model: e.target.value, version: NEWEST, other: null }),
);
byId("version").addEventListener("change", (e) => choose({ version: e.target.value }));
byId("other").addEventListener("change", (e) => choose({ other: e.target.value || null }));

// --- Where images come from ---

function add(files) {
  const none = "There was no image file in that. Save the image first, then choose it.";
  byId("problem").textContent = files.length ? "" : none;
  cards.add(files);
}

for (const id of ["files", "capture"]) {
  byId(id).addEventListener("change", (event) => {
    add(Array.from(event.target.files));
    event.target.value = ""; // the same file may be chosen again
  });
}
byId("remove-all").addEventListener("click", () => {
  cards.clear();
  byId("files").focus();
});

addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  add(Array.from(event.dataTransfer.files));
});
addEventListener("paste", (event) => {
  const files = Array.from(event.clipboardData?.files ?? []);
  if (files.length) add(files);
});

// --- The camera ---

let stream = null;
let pictures = 0;

async function openCamera() {
  // Over plain http from another machine a page may not use the camera itself.
  if (!navigator.mediaDevices?.getUserMedia) {
    byId("capture").click();
    return;
  }
  byId("take").disabled = true;
  byId("camera-text").textContent = "Waiting for the camera; allow it if you are asked.";
  byId("camera").showModal();
  try {
    const found = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    if (!byId("camera").open) return release(found);
    stream = found;
    byId("video").srcObject = stream;
    await byId("video").play();
    byId("camera-text").textContent = "The frame that you take is sent as a PNG.";
    byId("take").disabled = false;
    byId("take").focus();
  } catch (error) {
    const way = "Allow it in the address bar, or choose an image.";
    byId("camera-text").textContent = `The camera cannot be used (${error.message}). ${way}`;
  }
}

async function take() {
  pictures += 1;
  add([await frame(byId("video"), `Camera picture ${pictures}.png`)]);
  byId("camera").close();
}

function release(media) {
  for (const track of media?.getTracks() ?? []) track.stop();
}

byId("open-camera").addEventListener("click", openCamera);
byId("take").addEventListener("click", take);
byId("close-camera").addEventListener("click", () => byId("camera").close());
byId("camera").addEventListener("close", () => {
  release(stream);
  stream = null;
  byId("video").srcObject = null;
});

document.addEventListener("visibilitychange", () => document.hidden || refresh());
follow();
