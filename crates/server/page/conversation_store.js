/** The conversations that this browser keeps, in IndexedDB. Nothing leaves the browser. */

const NAME = "tokenwire";
const STORE = "conversations";
/** Most conversations that are kept. Beyond it those that were not used for the longest time are deleted. */
const MOST = 500;
const TITLE_LENGTH = 80;

let opening = null;

/** Opens the database once. A browser that allows no storage rejects. */
function open() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      const store = request.result.createObjectStore(STORE, { keyPath: "id" });
      store.createIndex("updated", "updated");
      store.createIndex("answers", "answers", { multiEntry: true });
    };
    request.onsuccess = () => {
      // Another tab deletes or changes the database.
      request.result.onversionchange = () => request.result.close();
      resolve(request.result);
    };
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("The database is in use."));
  });
  return opening;
}

/** Runs `act` on the object store in one transaction. Returns what its last request resolved to, once it is written. */
async function transact(mode, act) {
  const database = await open();
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(STORE, mode);
    let result;
    transaction.oncomplete = () => resolve(result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
    act(transaction.objectStore(STORE), (value) => { result = value; });
  });
}

/** Returns the stored conversations, the newest first: `{ id, title, updated }`. */
export async function list() {
  const all = await transact("readonly", (store, give) => {
    store.index("updated").getAll().onsuccess = ({ target }) => give(target.result);
  });
  return all.reverse().map(({ id, title, updated }) => ({ id, title, updated }));
}

/** Returns a conversation, or null. */
export function load(id) {
  return transact("readonly", (store, give) => { store.get(id).onsuccess = ({ target }) => give(target.result ?? null); });
}

/** Returns the conversation that has this answer, or null. */
export function findByAnswer(answer) {
  return transact("readonly", (store, give) => { store.index("answers").get(answer).onsuccess = ({ target }) => give(target.result ?? null); });
}

/**
 * Stores the turns of a conversation. Returns its record.
 *
 * `known` is the record that this tab last read or wrote, or null for a new conversation. If another tab has gone on with the
 * conversation in the meantime, these turns become a conversation of their own, so that neither tab overwrites the other.
 */
export function save(known, turns) {
  const answers = turns.map(({ answer }) => answer).filter(Boolean);
  return transact("readwrite", (store, give) => {
    const write = (stored) => {
      const isSame = known !== null && (stored === null || stored.version === known.version || continues(turns, stored.turns));
      const record = {
        id: isSame ? known.id : crypto.getRandomValues(new Uint32Array(4)).join("-"),
        title: (isSame ? (stored ?? known).title : null) ?? titleOf(turns),
        version: (isSame ? Math.max(known.version, stored?.version ?? 0) : 0) + 1,
        updated: Date.now(),
        answers,
        turns,
      };
      store.put(record);
      give(record);
      if (record.version === 1) deleteOldest(store);
    };
    if (known === null) write(null);
    else store.get(known.id).onsuccess = ({ target }) => write(target.result ?? null);
  });
}

/** Returns whether `turns` have every answer of `stored`, so that writing them loses none. */
function continues(turns, stored) {
  return stored.every(({ question, answer }, at) => turns[at]?.question === question && (answer === null || turns[at].answer === answer));
}

function titleOf(turns) {
  const question = turns.find(({ question }) => question !== "")?.question ?? "";
  return question.replace(/\s+/g, " ").trim().slice(0, TITLE_LENGTH);
}

function deleteOldest(store) {
  store.count().onsuccess = ({ target: { result: count } }) => {
    let surplus = count - MOST;
    if (surplus <= 0) return;
    store.index("updated").openCursor().onsuccess = ({ target: { result: cursor } }) => {
      if (cursor === null || surplus <= 0) return;
      surplus -= 1;
      cursor.delete();
      cursor.continue();
    };
  };
}

/** Gives a conversation another title. */
export function rename(id, title) {
  return transact("readwrite", (store) => {
    store.get(id).onsuccess = ({ target: { result: record } }) => {
      if (record) store.put({ ...record, title: title.slice(0, TITLE_LENGTH) });
    };
  });
}

/** Deletes a conversation and returns it, for `restore`. */
export function remove(id) {
  return transact("readwrite", (store, give) => {
    store.get(id).onsuccess = ({ target }) => {
      give(target.result ?? null);
      store.delete(id);
    };
  });
}

/** Puts a deleted conversation back. */
export function restore(record) {
  return transact("readwrite", (store) => { store.put(record); });
}
