// Runs before the first paint, so that a chosen theme does not flash.
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem("tokenwire.theme");
  } catch {
    // Storage may be forbidden; the system's theme serves.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
