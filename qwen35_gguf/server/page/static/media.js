// Images and videos as data URIs; large images are made smaller here, since the model does not see more anyway.

const MAX_SIDE = 2048; // pixels
const MAX_VIDEO = 40 * 1024 * 1024; // bytes
const KEPT = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp"];

function dataUri(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(blob);
  });
}

async function imageOf(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name || "The image"}: the browser cannot read it; use PNG, JPEG or WebP.`);
  }
  const { width, height } = bitmap;
  const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
  if (scale === 1 && KEPT.includes(file.type)) {
    bitmap.close();
    return dataUri(file);
  }
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const opaque = file.type === "image/jpeg";
  return canvas.toDataURL(opaque ? "image/jpeg" : "image/png", 0.92);
}

// Read a file: {kind, url, name}; throws an Error with one line for the user.
export async function readMedia(file) {
  if (file.type.startsWith("image/")) return { kind: "image", url: await imageOf(file), name: file.name };
  if (file.type.startsWith("video/")) {
    if (file.size > MAX_VIDEO) throw new Error(`${file.name}: is larger than ${MAX_VIDEO / 1048576} MiB; use a shorter video.`);
    return { kind: "video", url: await dataUri(file), name: file.name };
  }
  throw new Error(`${file.name || "The file"}: is neither an image nor a video.`);
}

export const hasFiles = (transfer) => [...(transfer?.types ?? [])].includes("Files");
