/* Adds to pages that work without it: dropping files, progress, zoom and filters. It asks no other host for anything. */
"use strict";

// An upload: files dropped or chosen, sent with progress.
(() => {
  const form = document.getElementById("upload");
  if (!form) return;
  const drop = form.querySelector(".drop"), input = form.querySelector("input[type=file]");
  const bar = document.getElementById("sending"), said = document.getElementById("said");
  const list = document.getElementById("chosen");
  const chosen = () => {
    const n = input.files.length;
    list.textContent = n ? `${n} file${n > 1 ? "s" : ""} chosen` : "";
  };
  input.addEventListener("change", chosen);
  for (const kind of ["dragover", "dragenter"]) drop.addEventListener(kind, e => { e.preventDefault(); drop.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
  drop.addEventListener("drop", e => { e.preventDefault(); input.files = e.dataTransfer.files; chosen(); });
  form.addEventListener("submit", e => {
    if (!input.files.length) return;
    e.preventDefault();
    const request = new XMLHttpRequest();
    request.open("POST", "/api/uploads");
    bar.hidden = false;
    said.textContent = "Sending…";
    request.upload.addEventListener("progress", p => { if (p.lengthComputable) bar.value = p.loaded / p.total; });
    request.addEventListener("error", () => { bar.hidden = true; said.textContent = "The connection broke. Send it again."; });
    request.addEventListener("load", () => {
      bar.hidden = true;
      let told = {};
      try { told = JSON.parse(request.responseText); } catch { /* said below */ }
      if (request.status === 202) { location.href = "/uploads/" + told.id; return; }
      said.textContent = [told.where, told.error || "It was refused", told.remedy].filter(Boolean).join(": ") + ".";
    });
    request.send(new FormData(form));
  });
})();

// An upload that is being scored.
(() => {
  const waiting = document.getElementById("waiting");
  if (!waiting) return;
  const bar = waiting.querySelector("progress"), words = waiting.querySelector("p");
  const look = async () => {
    const answer = await fetch("/api/uploads/" + waiting.dataset.upload).catch(() => null);
    if (answer && answer.ok) {
      const told = await answer.json();
      if (["done", "failed", "gone"].includes(told.state)) { location.reload(); return; }
      bar.max = told.fields;
      if (told.state === "running") bar.value = told.done;
      words.textContent = told.state === "queued" ? `${told.before} before it` : `${told.done} of ${told.fields} fields scored`;
    }
    setTimeout(look, 700);
  };
  look();
})();

// A field: zoom, pan, layers, filters.
(() => {
  const viewer = document.getElementById("viewer");
  if (!viewer) return;
  const svg = viewer.querySelector("svg"), whole = svg.viewBox.baseVal, width = whole.width, height = whole.height;
  let view = { x: 0, y: 0, w: width, h: height };
  const show = () => svg.setAttribute("viewBox", `${view.x} ${view.y} ${view.w} ${view.h}`);
  const place = e => {
    const p = new DOMPoint(e.clientX, e.clientY).matrixTransform(svg.getScreenCTM().inverse());
    return [p.x, p.y];
  };
  const zoom = (factor, x = view.x + view.w / 2, y = view.y + view.h / 2) => {
    const w = Math.min(Math.max(view.w * factor, width / 40), width * 1.2), real = w / view.w;
    view = { x: x - (x - view.x) * real, y: y - (y - view.y) * real, w, h: view.h * real };
    show();
  };
  const fit = () => { view = { x: 0, y: 0, w: width, h: height }; show(); };
  const move = (dx, dy) => { view.x += dx * view.w; view.y += dy * view.h; show(); };
  const acts = { in: () => zoom(0.7), out: () => zoom(1 / 0.7), fit };
  for (const button of document.querySelectorAll("[data-zoom]")) {
    button.hidden = false;
    button.addEventListener("click", acts[button.dataset.zoom]);
  }
  viewer.addEventListener("wheel", e => { e.preventDefault(); zoom(e.deltaY > 0 ? 1.2 : 1 / 1.2, ...place(e)); }, { passive: false });
  const keys = { "+": acts.in, "=": acts.in, "-": acts.out, "0": fit, ArrowLeft: () => move(-0.15, 0), ArrowRight: () => move(0.15, 0), ArrowUp: () => move(0, -0.15), ArrowDown: () => move(0, 0.15) };
  viewer.addEventListener("keydown", e => { moved = 0; if (keys[e.key]) { e.preventDefault(); keys[e.key](); } });
  const held = new Map();
  let moved = 0;
  viewer.addEventListener("pointerdown", e => { held.set(e.pointerId, [e.clientX, e.clientY]); moved = 0; });
  viewer.addEventListener("pointermove", e => {
    const before = held.get(e.pointerId);
    if (!before) return;
    const scale = view.w / svg.clientWidth;
    if (held.size === 1) {
      view.x -= (e.clientX - before[0]) * scale;
      view.y -= (e.clientY - before[1]) * scale;
      moved += Math.abs(e.clientX - before[0]) + Math.abs(e.clientY - before[1]);
      show();
    } else {
      const other = [...held].find(([id]) => id !== e.pointerId)[1];
      const far = p => Math.hypot(p[0] - other[0], p[1] - other[1]);
      zoom(far(before) / Math.max(1, far([e.clientX, e.clientY])));
      moved += 10;
    }
    held.set(e.pointerId, [e.clientX, e.clientY]);
  });
  for (const kind of ["pointerup", "pointercancel", "pointerleave"]) viewer.addEventListener(kind, e => held.delete(e.pointerId));
  viewer.addEventListener("click", e => { if (moved > 6) e.preventDefault(); }, true);
  viewer.addEventListener("dragstart", e => e.preventDefault());
  const said = document.getElementById("pointed");
  const tell = e => { const cell = e.target.closest("[data-said]"); if (cell) said.textContent = cell.dataset.said; };
  viewer.addEventListener("pointerover", tell);
  viewer.addEventListener("focusin", tell);
  const filters = document.getElementById("filters");
  filters.hidden = false;
  const least = document.getElementById("least"), shown = document.getElementById("least-shown"), kind = document.getElementById("kind");
  const sift = () => {
    const layers = new Set([...filters.querySelectorAll("[name=layer]:checked")].map(c => c.value));
    let n = 0;
    for (const cell of document.querySelectorAll("[data-label]")) {
      const off = !layers.has(cell.dataset.label) || Number(cell.dataset.sure) < Number(least.value) || (kind.value && kind.value !== cell.dataset.name);
      cell.classList.toggle("off", off);
      n += !off && cell.tagName.toLowerCase() === "a";
    }
    shown.textContent = Number(least.value).toFixed(2);
    document.getElementById("count").textContent = `${n} cells shown`;
  };
  filters.addEventListener("input", sift);
  sift();
})();

// Printing.
for (const button of document.querySelectorAll("[data-print]")) {
  button.hidden = false;
  button.addEventListener("click", () => window.print());
}
