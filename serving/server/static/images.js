/* Image files: what can be sent, as it is. */

const MAX_BYTES = 50 * 2 ** 20; // the server's --max_image_bytes
// First bytes of a JPEG and of a PNG.
const FORMATS = [
  [0xff, 0xd8, 0xff],
  [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a],
];

/**
 * Looks whether a file can be sent. It goes as it is, so that answers are those of the API: a browser that
 * converted it would show the model other pixels than evaluation has seen.
 *
 * @param {File} file of any kind.
 * @throws {Error} too large, or neither JPEG nor PNG; the message is for people.
 */
export async function check(file) {
  if (file.size > MAX_BYTES) {
    throw new Error(`This image is larger than ${size(MAX_BYTES)}. Choose a smaller one.`);
  }
  const head = new Uint8Array(await file.slice(0, 8).arrayBuffer());
  if (FORMATS.some((format) => format.every((byte, i) => head[i] === byte))) return;
  // The words of the model itself.
  throw new Error("The bytes are no JPEG or PNG; convert the image to PNG, which loses nothing.");
}

/** What a video shows now, as a PNG file. */
export async function frame(video, name) {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return new File([blob], name, { type: "image/png" });
}

/** Standard base64 of a blob's bytes. */
export function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("The file cannot be read any more; add it again."));
    reader.readAsDataURL(blob);
  });
}

/** 57 KB, 3.4 MB. */
export function size(bytes) {
  const kilobytes = bytes / 2 ** 10;
  return kilobytes < 1000 ? `${Math.ceil(kilobytes)} KB` : `${+(kilobytes / 2 ** 10).toFixed(1)} MB`;
}
