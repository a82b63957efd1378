"use strict";
for (const drawing of document.querySelectorAll(".truncate-drawing:not([data-ready])")) {
  drawing.dataset.ready = "";
  const search = drawing.querySelector("input");
  const said = drawing.querySelector(".said");
  const items = [...drawing.querySelectorAll("li")];
  const folds = [...drawing.querySelectorAll("li details")];
  let before = null; // which were unfolded when the search began

  const say = (text) => { said.textContent = text; };

  // A drawing without a secure origin, as one inside a notebook may be, has no clipboard but a selection.
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      const field = document.createElement("textarea");
      field.value = text;
      field.style.position = "fixed";
      field.style.opacity = "0";
      drawing.append(field);
      field.select();
      const done = document.execCommand("copy");
      field.remove();
      return done;
    }
  };

  const find = () => {
    const words = search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) {
      items.forEach((item) => { item.hidden = false; item.classList.remove("found"); });
      if (before) folds.forEach((fold, i) => { fold.open = before[i]; });
      before = null;
      say("");
      return;
    }
    before ??= folds.map((fold) => fold.open);
    items.forEach((item) => { item.hidden = true; item.classList.remove("found"); });
    folds.forEach((fold) => { fold.open = false; });
    let count = 0;
    for (const item of items) {
      if (item.dataset.find === undefined || !words.every((word) => item.dataset.find.includes(word))) continue;
      count += 1;
      item.classList.add("found");
      item.hidden = false;
      for (let around = item.parentElement.closest("li"); around; around = around.parentElement.closest("li")) {
        around.hidden = false;
        around.querySelector(":scope > details").open = true;
      }
      item.querySelectorAll("li").forEach((inner) => { inner.hidden = false; });
    }
    say(count === 1 ? "1 target" : `${count} targets`);
  };

  search.addEventListener("input", find);
  search.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { search.value = ""; find(); }
  });
  drawing.addEventListener("click", async (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.fold !== undefined) {
      folds.forEach((fold) => { fold.open = button.dataset.fold === "open"; });
    } else if (button.dataset.target !== undefined) {
      if (await copy(button.dataset.target)) {
        say(`copied ${button.dataset.target}`);
        button.classList.add("copied");
        setTimeout(() => button.classList.remove("copied"), 1500);
      } else {
        say(`cannot copy; the target is ${button.dataset.target}`);
      }
      button.focus();
    }
  });
  drawing.querySelector(".tools").hidden = false;
}
