// Fits every slide into its sheet, then shows one at a time.
const slides = [...document.querySelectorAll(".slide")];
const page = document.body;
let now = 0;

// Smaller, until nothing is cut off. `data-zoom` says how small it had to be.
function fit(slide) {
  const body = slide.querySelector(".body");
  const content = slide.querySelector(".fit");
  let zoom = 1;
  while (zoom > 0.3 && (body.scrollHeight > body.clientHeight || body.scrollWidth > body.clientWidth)) {
    zoom -= 0.02;
    content.style.zoom = zoom;
  }
  slide.dataset.zoom = zoom.toFixed(2);
}

// The sheet as large as the window has room for.
function scale() {
  const height = innerHeight * (page.classList.contains("talking") ? 0.65 : 1);
  const factor = Math.min(innerWidth / 1280, height / 720);
  for (const stage of document.querySelectorAll(".stage")) {
    stage.style.transform = `scale(${factor})`;
    stage.style.left = `${(innerWidth - 1280 * factor) / 2}px`;
    stage.style.top = `${(height - 720 * factor) / 2}px`;
  }
}

function show(number) {
  now = Math.max(0, Math.min(slides.length - 1, number));
  slides.forEach((slide, index) => slide.classList.toggle("now", index === now));
  history.replaceState(null, "", `#${now + 1}`);
}

const steps = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1 };
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const key = event.key;
  if (key in steps) show(now + steps[key]);
  else if (key === "Home") show(0);
  else if (key === "End") show(slides.length - 1);
  else if (key === "n") { page.classList.toggle("talking"); scale(); }
  else if (key === "d") page.classList.toggle("dark");
  else return;
  event.preventDefault();
});

let start = 0;
addEventListener("touchstart", (event) => { start = event.touches[0].clientX; });
addEventListener("touchend", (event) => {
  const moved = event.changedTouches[0].clientX - start;
  if (Math.abs(moved) > 50) show(now + (moved < 0 ? 1 : -1));
});

addEventListener("load", () => {
  page.classList.toggle("dark", matchMedia("(prefers-color-scheme: dark)").matches);
  slides.forEach(fit);
  page.classList.add("running");
  scale();
  show((Number(location.hash.slice(1)) || 1) - 1);
  setTimeout(() => document.querySelector(".help").remove(), 6000);
});
addEventListener("resize", scale);
addEventListener("hashchange", () => show((Number(location.hash.slice(1)) || 1) - 1));
