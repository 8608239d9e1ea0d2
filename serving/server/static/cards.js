/* One card for each image: its preview, and a column of answers for each version that is looked at. */

import { SIGNATURE, predict, read } from "./api.js";
import { drawResult, drawVerdict, plain } from "./columns.js";
import { byId, element, percent } from "./dom.js";
import { check, size } from "./images.js";

const AT_A_TIME = 2; // requests: the server's threads are for others too
const SMALL = 96; // pixels; smaller images are shown enlarged, with their pixels

/** What names a version among all models. */
export function keyOf(model, version) {
  return `${model}/${version.number}`;
}

export class Cards {
  /**
   * @param {function(): Promise} refresh looks which versions are loaded, and calls `show`.
   */
  constructor(refresh) {
    this.refresh = refresh;
    this.items = [];
    this.model = null;
    this.versions = [];
    this.waiting = [];
    this.running = 0;
  }

  /** Adds files, the first on top. */
  async add(files) {
    const items = Array.from(files, (file) => this.made(file));
    this.items = [...items, ...this.items];
    byId("cards").prepend(...items.map((item) => item.card));
    this.tell();
    const top = items[0]?.card.getBoundingClientRect().top ?? 0;
    // On a phone the panel fills the screen.
    if (top < 0 || top > innerHeight / 2) byId("drop").scrollIntoView();
    for (const item of items) await this.read(item);
  }

  /**
   * Shows what these versions answer, and asks them where that is not known.
   *
   * @param {?string} model its name.
   * @param {Object[]} versions one, or two to compare, of page/models.json.
   * @param {Set<string>} loaded keys of every version of every model that answers.
   */
  show(model, versions, loaded) {
    for (const item of this.items) {
      // A version that comes back may have other weights: its old answers are not kept.
      for (const key of item.results.keys()) if (!loaded.has(key)) item.results.delete(key);
    }
    this.model = model;
    this.versions = versions;
    for (const item of this.items) this.draw(item);
  }

  /** Removes every image. */
  clear() {
    for (const item of this.items) URL.revokeObjectURL(item.url);
    this.items = [];
    this.waiting = [];
    byId("cards").replaceChildren();
    this.tell();
  }

  made(file) {
    const item = { name: file.name || "Pasted image", file, blob: null, url: null, results: new Map() };
    item.shot = element("div.shot");
    item.facts = element("p.hint");
    item.notes = element("div.notes");
    item.columns = element("div.columns");
    item.verdict = element("p.verdict");
    const remove = () => this.remove(item);
    const named = { type: "button", "aria-label": `Remove ${item.name}`, click: remove };
    const cross = element("button.remove", named, "✕");
    const title = element("div.card-title", {}, element("h3", {}, item.name), item.facts);
    const body = element("div.card-body", {}, title, cross, item.notes, item.columns, item.verdict);
    item.card = element("li.card", {}, item.shot, body);
    return item;
  }

  async read(item) {
    try {
      await check(item.file);
      if (!this.items.includes(item)) return; // removed meanwhile
      item.blob = item.file;
      this.preview(item);
      this.draw(item);
    } catch (error) {
      this.refuse(item, error.message);
    }
  }

  preview(item) {
    item.url = URL.createObjectURL(item.blob);
    const image = element("img", { src: item.url, alt: "", decoding: "async" });
    item.facts.textContent = size(item.blob.size);
    image.addEventListener("load", () => {
      const { naturalWidth: width, naturalHeight: height } = image;
      item.facts.textContent = `${width} × ${height}, ${size(item.blob.size)}`;
      item.shot.classList.toggle("small", Math.max(width, height) <= SMALL);
    });
    image.addEventListener("error", () => item.shot.replaceChildren(element("p.hint", {}, "No preview")));
    item.shot.replaceChildren(image);
  }

  refuse(item, message) {
    item.shot.replaceChildren(element("p.hint", {}, "Not sent"));
    item.notes.replaceChildren(element("p.problem", {}, message));
    this.announce(`${item.name}: ${message}`);
  }

  remove(item) {
    const place = this.items.indexOf(item);
    this.items.splice(place, 1);
    URL.revokeObjectURL(item.url);
    item.card.remove();
    // The focus must not fall out of the list.
    const next = this.items[Math.min(place, this.items.length - 1)];
    (next ? next.card.querySelector(".remove") : byId("files")).focus();
    this.tell();
  }

  draw(item) {
    if (!item.blob) return;
    // As these versions see a photo: with the rotation that it stores, or without.
    const upright = this.versions.length > 0 && this.versions.every((version) => version.upright);
    item.shot.classList.toggle("upright", upright);
    const results = this.versions.map((version) => this.result(item, version));
    const views = results.map((result) => result.view);
    const shown = Array.from(item.columns.children);
    // Moved elements would start their animation again.
    if (views.length !== shown.length || views.some((view, i) => view !== shown[i])) {
      item.columns.replaceChildren(...views);
    }
    item.columns.classList.toggle("two", views.length > 1);
    if (!views.length)
      item.columns.replaceChildren(element("p.hint", {}, "Waits for a version to be loaded."));
    drawVerdict(item.verdict, results);
  }

  result(item, version) {
    const key = keyOf(this.model, version);
    let result = item.results.get(key);
    if (!result) {
      result = { model: this.model, version, state: "waiting", view: element("section.column") };
      item.results.set(key, result);
      drawResult(result);
      this.ask(item, result);
    } else if (result.version !== version) {
      result.version = version; // its labels may have changed
      drawResult(result);
    }
    return result;
  }

  ask(item, result) {
    if (!result.version.signatures.includes(SIGNATURE)) {
      result.state = "failed";
      result.message = `This version has no signature ${SIGNATURE}: ask it through the API.`;
      drawResult(result);
      return;
    }
    this.waiting.push({ item, result });
    this.next();
  }

  next() {
    while (this.running < AT_A_TIME && this.waiting.length) {
      const { item, result } = this.waiting.shift();
      if (!this.items.includes(item) || !this.current(item, result)) continue;
      if (result.model !== this.model || !this.versions.includes(result.version)) {
        item.results.delete(keyOf(result.model, result.version)); // asked again when it is looked at
        continue;
      }
      this.running += 1;
      this.classify(item, result).finally(() => {
        this.running -= 1;
        this.next();
      });
    }
  }

  async classify(item, result) {
    result.state = "running";
    drawResult(result);
    try {
      const answer = await predict(result.model, result.version.number, item.blob);
      if (answer.status === 404) {
        // Unloaded since: after this look the newest version is asked, or what is left of it.
        await this.refresh();
        if (!this.current(item, result)) return;
      }
      Object.assign(result, { state: "done", labels: read(answer), ms: answer.ms });
      this.announce(spoken(item.name, result));
    } catch (error) {
      const again = error.final ? null : () => this.again(item, result);
      Object.assign(result, { state: "failed", message: error.message, again });
      this.announce(`${item.name}: ${plain(error.message).said}`);
    }
    drawResult(result);
    if (this.items.includes(item)) this.draw(item);
  }

  again(item, result) {
    result.state = "waiting";
    drawResult(result);
    this.ask(item, result);
  }

  /** Whether a result is still the one of its version: it may have been unloaded since. */
  current(item, result) {
    return item.results.get(keyOf(result.model, result.version)) === result;
  }

  announce(text) {
    byId("announcer").textContent = text;
  }

  tell() {
    const number = this.items.length;
    byId("list-head").hidden = !number;
    byId("count").textContent = number === 1 ? "1 image" : `${number} images`;
    document.body.classList.toggle("has-images", number > 0);
  }
}

function spoken(name, { labels, version, ms }) {
  const [best] = labels;
  const found = best ? `${best.name}, ${percent(best.share)}` : "no label";
  return `${name}: ${found}, version ${version.number}, ${Math.round(ms)} milliseconds.`;
}
