// Conversations in the browser's IndexedDB; without one (some private windows), in memory.

const NAME = "qwen35";
const TABLE = "conversations";
const memory = new Map();
let opening = null;

function database() {
  opening ??= new Promise((resolve) => {
    let request;
    try {
      request = indexedDB.open(NAME, 1);
    } catch {
      resolve(null);
      return;
    }
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null);
    request.onblocked = () => resolve(null);
  });
  return opening;
}

async function run(mode, action) {
  const opened = await database();
  if (opened === null) return undefined;
  return new Promise((resolve, reject) => {
    const transaction = opened.transaction(TABLE, mode);
    const request = action(transaction.objectStore(TABLE));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}

export async function all() {
  const found = (await run("readonly", (table) => table.getAll())) ?? [...memory.values()];
  return found.sort((a, b) => b.updated - a.updated);
}

export async function save(conversation) {
  if ((await database()) === null) memory.set(conversation.id, conversation);
  else await run("readwrite", (table) => table.put(conversation));
}

export async function remove(id) {
  memory.delete(id);
  await run("readwrite", (table) => table.delete(id));
}

export async function clear() {
  memory.clear();
  await run("readwrite", (table) => table.clear());
}
