"use strict";
// Hover texts at once instead of after a second, for touch too. Without this script the browser's own remain.
(() => {
  const box = document.createElement("div");
  box.id = "tip";
  box.hidden = true;
  document.body.append(box);
  for (const title of document.querySelectorAll("svg .tip > title")) {
    title.parentNode.dataset.tip = title.textContent;
    title.parentNode.setAttribute("aria-label", title.textContent);
    title.remove();
  }
  const show = (event) => {
    const mark = event.target.closest ? event.target.closest("[data-tip]") : null;
    box.hidden = !mark;
    if (!mark) return;
    box.textContent = mark.dataset.tip;
    const left = Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8);
    const above = event.clientY - box.offsetHeight - 12;
    box.style.left = Math.max(8, left) + "px";
    box.style.top = (above < 8 ? event.clientY + 18 : above) + "px";
  };
  addEventListener("pointermove", show);
  addEventListener("pointerdown", show);
  addEventListener("scroll", () => { box.hidden = true; }, { passive: true });
  // On paper nothing can be opened: settings and machine are printed whole, and folded again afterwards.
  const folded = [...document.querySelectorAll("details[data-printed]")];
  addEventListener("beforeprint", () => {
    for (const part of folded) part.dataset.printed = part.open ? "open" : "opened";
    for (const part of folded) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of folded) part.open = part.dataset.printed === "open";
  });
  for (const button of document.querySelectorAll(".code button")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.closest(".code").querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
})();
