/* Image files: what can be sent, as it is. */

const MAX_BYTES = 50 * 2 ** 20; // the server's --max_image_bytes
const HEAD_BYTES = 256 * 1024; // where the model looks for Exif data
const MOST_SEGMENTS = 1000; // among which it looks

/**
 * Whether a file can be sent. It goes as it is, so that answers are those of the API: a browser that converted
 * it would show the model other pixels than evaluation has seen.
 *
 * @param {File} file of any kind.
 * @returns {Promise<number>} the orientation that it stores, 1 to 8, which some models apply.
 * @throws {Error} too large, or neither JPEG nor PNG; the message is for people.
 */
export async function prepare(file) {
  refuseLarge(file);
  const head = new Uint8Array(await file.slice(0, HEAD_BYTES).arrayBuffer());
  if (isPng(head)) return 1;
  if (isJpeg(head)) return orientation(head);
  // The words of the model itself.
  throw new Error("The bytes are no JPEG or PNG; convert the image to PNG, which loses nothing.");
}

/** What a video shows now, as a PNG file. */
export async function frame(video, name) {
  const blob = await drawn(video, video.videoWidth, video.videoHeight);
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

function refuseLarge(blob) {
  if (blob.size > MAX_BYTES) {
    throw new Error(`This image is larger than ${size(MAX_BYTES)}. Choose a smaller one.`);
  }
}

function isPng(head) {
  return [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a].every((byte, i) => head[i] === byte);
}

function isJpeg(head) {
  return head[0] === 0xff && head[1] === 0xd8 && head[2] === 0xff;
}

function drawn(source, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.drawImage(source, 0, 0);
  return new Promise((resolve, reject) => {
    const done = (blob) =>
      blob
        ? resolve(blob)
        : reject(new Error("The camera's picture is too large. Choose a smaller one."));
    canvas.toBlob(done, "image/png");
  });
}

/** Exif's orientation, 1 to 8, of a JPEG, read as the model does; 1 (upright) where none is stored. */
function orientation(head) {
  const view = new DataView(head.buffer);
  try {
    let at = 2;
    for (let i = 0; i <= MOST_SEGMENTS && view.getUint8(at) === 0xff; i++) {
      if (view.getUint8(at + 1) === 0xff) {
        while (view.getUint8(at + 1) === 0xff) at++; // fill bytes: counted as the model counts them
        i++;
      }
      if ([0x00, 0xd9, 0xda].includes(view.getUint8(at + 1))) return 1;
      const isExif = view.getUint32(at + 4) === 0x45786966 && view.getUint16(at + 8) === 0; // "Exif"
      const exif = view.getUint8(at + 1) === 0xe1 && isExif;
      if (exif) return orientationOfTiff(new DataView(head.buffer, at + 10));
      at += 2 + Math.max(view.getUint16(at + 2), 2);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // cut off: the server will say so
  }
  return 1;
}

function orientationOfTiff(view) {
  const little = view.getUint16(0) === 0x4949;
  const directory = view.getUint32(4, little);
  for (let i = 0; i < view.getUint16(directory, little); i++) {
    const entry = directory + 2 + 12 * i;
    const isShort = view.getUint16(entry + 2, little) === 3;
    const value = view.getUint16(entry + 8, little);
    const found = view.getUint16(entry, little) === 0x0112 && isShort && value >= 1 && value <= 8;
    if (found) return value;
  }
  return 1;
}
