/** The button that switches between the light and the dark theme. */
import { t } from "./words.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark";

/** Lets a button switch the theme. `keep` stores the choice. */
export function switchTheme(button, keep) {
  const name = () => button.setAttribute("aria-label", isDark() ? t("Switch to the light theme") : t("Switch to the dark theme"));
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    keep(theme);
    name();
  });
  dark.addEventListener("change", name);
  name();
}
