/** Settings kept in this browser, if it allows storage. */
export const kept = {
  get(name) {
    try {
      return localStorage.getItem(`tokenwire.${name}`);
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`tokenwire.${name}`, value);
    } catch {
      // Without storage the setting lasts until the page is closed.
    }
  },
};
