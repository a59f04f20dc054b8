// The menus open and close without this. With it they also close by Escape, by a click elsewhere and when left.
"use strict";
(() => {
  const opened = () => document.querySelectorAll("details.m-menu[open]");
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    for (const menu of opened()) {
      const had = menu.contains(document.activeElement);
      menu.open = false;
      if (had) menu.querySelector("summary").focus();
    }
  });
  for (const kind of ["click", "focusin"]) {
    document.addEventListener(kind, (event) => {
      for (const menu of opened()) {
        if (!menu.contains(event.target)) menu.open = false;
      }
    });
  }
})();
