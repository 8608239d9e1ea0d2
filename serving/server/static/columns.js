/* What one version says of one image, and how two answers compare. */

import { element, percent } from "./dom.js";

/**
 * Draws a result into its `view`.
 *
 * @param {Object} result of a version: `version`, `view`, `state` (waiting, running, done or failed), then
 *   `labels` and `ms`, or `message` and `again`.
 */
export function drawResult(result) {
  const { version, view, state, ms } = result;
  const mark = element("span.mark", { "aria-hidden": "true" });
  const head = element("h4", {}, mark, element("span.word", {}, "Version "), version.number);
  const time = state === "done" ? [`${Math.round(ms)} ms`] : [];
  const side = element("p.side", {}, [...version.labels, ...time].join(", "));
  view.dataset.state = state;
  view.replaceChildren(element("div.column-head", {}, head, side), content(result));
}

function content(result) {
  if (result.state === "done") return element("ol.bars", {}, ...result.labels.map(bar));
  if (result.state === "failed") return failure(result);
  const text = result.state === "running" ? "Asking the model" : "Waits for its turn";
  const ghosts = [1, 2, 3].map(() => element("div.ghost"));
  return element("div.pending", {}, element("p.hint", {}, text), ...ghosts);
}

/** The server's own words without names of the graph's nodes, and its hint. */
export function plain(message) {
  const [, said, , hint] = /^(.*?)(\s*\[\[\{\{.*?)?(?: \(hint: (.*)\))?$/s.exec(message);
  return { said, hint };
}

function failure({ message, again }) {
  const { said, hint } = plain(message);
  return element(
    "div.failed",
    {},
    element("p.problem", {}, said),
    hint && element("p.hint", {}, `Hint: ${hint}.`),
    again && element("button.button.quiet", { type: "button", click: again }, "Try again"),
  );
}

function bar({ name, share }) {
  const fill = element("span.fill");
  fill.style.width = `${Math.min(100, Math.max(0, share * 100))}%`;
  const text = element(
    "span.row",
    {},
    element("span.name", {}, name),
    element("span.share", {}, percent(share)),
  );
  return element("li", {}, text, element("span.track", { "aria-hidden": "true" }, fill));
}

/** One sentence in `line` that compares two results. */
export function drawVerdict(line, results) {
  const both = results.length === 2 && results.every((result) => result.state === "done");
  const [one, other] = both ? results.map((result) => result.labels[0]?.name) : [];
  line.classList.toggle("differs", one !== other);
  const same = one === other ? `Both versions say ${one}.` : `The versions disagree: ${one} or ${other}.`;
  line.textContent = both ? same : "";
}
