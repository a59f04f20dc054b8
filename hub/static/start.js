// The start page works without this: it only keeps a second click from asking for a second server.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("spawn_form");
  const button = document.getElementById("start-server");
  if (!form || !button) return;
  form.addEventListener("submit", () => {
    button.disabled = true;
    button.textContent = "Starting…";
  });
  // Coming back with the browser's Back button restores the page as it was left.
  window.addEventListener("pageshow", () => {
    button.disabled = false;
    button.textContent = "Start server";
  });
});
