/* Predictions, asked as every client of the REST API asks. */

import { base64 } from "./images.js";

/** The signature that gives labels: image_bytes -> classes, scores. */
export const SIGNATURE = "top_k";

/**
 * Sends one image.
 *
 * @param {string} model its name.
 * @param {string} version its number: always said, so that what is shown is what answered.
 * @param {Blob} blob JPEG or PNG.
 * @returns {Promise<{status: number, text: string, ms: number}>} the answer, and the milliseconds from
 *   sending until all of it was here.
 * @throws {Error} no server answered; the message is for people.
 */
export async function predict(model, version, blob) {
  const body = JSON.stringify({ signature_name: SIGNATURE, instances: [{ b64: await base64(blob) }] });
  const url = `v1/models/${encodeURIComponent(model)}/versions/${version}:predict`;
  const start = performance.now();
  try {
    const answer = await fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body,
    });
    const text = await answer.text();
    return { status: answer.status, text, ms: performance.now() - start };
  } catch {
    throw new Error("The server does not answer. Look whether it still runs, then try again.");
  }
}

/**
 * The labels of an answer, best first.
 *
 * @param {{status: number, text: string}} answer of `predict`.
 * @returns {{name: string, share: number}[]}
 * @throws {Error} the server's own words, or what is wrong with them; `final` when trying again is no use.
 */
export function read({ status, text }) {
  let document;
  try {
    document = JSON.parse(text) ?? {};
  } catch {
    throw new Error(`The server's answer (status ${status}) is not what this page can show.`);
  }
  if (status !== 200) {
    const error = new Error(document.error || `The server refused this image (status ${status}).`);
    error.final = status === 400 || status === 413; // the image will not do next time either
    throw error;
  }
  const row = document.predictions?.[0];
  if (!Array.isArray(row?.classes) || !Array.isArray(row?.scores)) {
    throw new Error(`Signature ${SIGNATURE} of this version has not the outputs classes and scores.`);
  }
  return row.classes.map((name, i) => ({ name: String(name), share: Number(row.scores[i]) }));
}
