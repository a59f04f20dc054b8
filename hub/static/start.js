// The start page works without this. With it, dates are in the reader's zone, what is chosen is summed up beside the
// button (its price, how long the balance buys it), and a second click does not ask for a second server.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("spawn_form");
  const button = document.getElementById("start-server");
  if (!form) return;
  const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
  const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  for (const time of form.querySelectorAll("time[datetime]")) {
    time.title = `${time.textContent} UTC`;
    time.textContent = day.format(new Date(time.dateTime));
  }

  const summary = document.getElementById("start-summary");
  function sumUp() {
    const chosen = form.querySelector("input[name=choice]:checked");
    if (!summary || !chosen) return;
    const own = form.querySelector("#custom-image");
    const listed = form.querySelector("#image option:checked");
    const image = (own && own.value.trim()) || (listed && listed.dataset.title);
    const spentAt = Date.now() + chosen.dataset.seconds * 1000;
    const endsAt = chosen.dataset.ends ? Date.parse(chosen.dataset.ends) : Infinity;
    const until =
      spentAt < endsAt
        ? `without a break until ${moment.format(spentAt)}`
        : `more than are left until the allocation ends on ${day.format(endsAt)}`;
    const what = document.createElement("strong");
    what.textContent = `${chosen.dataset.size}${image ? ` with ${image}` : ""} on ${chosen.dataset.allocation}`;
    if (chosen.dataset.free) {
      summary.replaceChildren(what, `: free of charge, for ${chosen.dataset.hours}.`);
      summary.hidden = false;
      return;
    }
    const price = `: ${chosen.dataset.price} credits an hour. The balance buys ${chosen.dataset.hours}, ${until}.`;
    summary.replaceChildren(what, price);
    summary.hidden = false;
  }
  form.addEventListener("change", sumUp);
  sumUp();

  if (!button) return;
  form.addEventListener("submit", () => {
    button.disabled = true;
    button.textContent = "Starting…";
  });
  // Coming back with the browser's Back button restores the page as it was left, the choice too.
  window.addEventListener("pageshow", () => {
    button.disabled = false;
    button.textContent = "Start server";
    sumUp();
  });
});
