(() => {
  "use strict";
  const roots = document.querySelectorAll(".gradverify:not([data-ready])");

  const copyButton = (block) => {
    const pre = block.querySelector("pre");
    const button = document.createElement("button");
    button.type = "button";
    const said = () => "Copy " + pre.getAttribute("aria-label");
    button.textContent = "Copy";
    button.setAttribute("aria-label", said());
    const tell = (text) => {
      button.textContent = text;
      button.setAttribute("aria-label", text);
      setTimeout(() => { button.textContent = "Copy"; button.setAttribute("aria-label", said()); }, 2500);
    };
    const select = () => {
      const range = document.createRange();
      range.selectNodeContents(pre);
      const selection = getSelection();
      selection.removeAllRanges();
      selection.addRange(range);
      tell(document.execCommand("copy") ? "Copied" : "Selected: now copy it");
    };
    button.addEventListener("click", () => {
      if (!navigator.clipboard) return select();
      navigator.clipboard.writeText(pre.textContent).then(() => tell("Copied"), select);
    });
    block.prepend(button);
  };

  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

  const heat = (part) => {
    const readout = part.querySelector(".readout");
    readout.setAttribute("aria-live", "polite");
    const show = (cell) => {
      readout.textContent = cell.querySelector("title").textContent;
      part.querySelectorAll(".cell.here").forEach((other) => other.classList.remove("here"));
      part.querySelectorAll(`.cell[data-at="${cell.dataset.at}"]`).forEach((same) => same.classList.add("here"));
    };
    part.querySelectorAll(".cell").forEach((cell) => {
      cell.addEventListener("pointerenter", () => show(cell));
      cell.addEventListener("focus", () => show(cell));
    });
    part.addEventListener("keydown", (event) => {
      const cell = event.target.closest(".cell"), step = STEPS[event.key];
      if (!cell || !step) return;
      const [row, column] = cell.dataset.at.split(" ").map(Number);
      const next = cell.parentNode.querySelector(`.cell[data-at="${row + step[0]} ${column + step[1]}"]`);
      event.preventDefault();
      if (!next) return;
      cell.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
  };

  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target || !target.closest(".gradverify")) return;
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    target.scrollIntoView();
  };

  roots.forEach((root) => {
    root.dataset.ready = "";
    root.querySelectorAll(".code").forEach(copyButton);
    root.querySelectorAll(".heat").forEach(heat);
    const folded = () => root.querySelectorAll("details:not([open])");
    let opened = [];
    addEventListener("beforeprint", () => { opened = [...folded()]; opened.forEach((part) => { part.open = true; }); });
    addEventListener("afterprint", () => { opened.forEach((part) => { part.open = false; }); opened = []; });
  });
  if (roots.length) { addEventListener("hashchange", reveal); reveal(); }
})();
