// Set the colors before the page is drawn, so that a dark page never flashes white.
const saved = localStorage.getItem("qwen35.theme");
if (saved === "light" || saved === "dark") document.documentElement.dataset.theme = saved;
