// The pages work without this. With it, times are in the reader's zone, live parts stay readable while they change,
// a form is sent once, and the submission form says what a run costs at most.
"use strict";
(() => {
  const precise = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const daily = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });

  function localise(root) {
    for (const time of root.querySelectorAll("time[datetime]")) {
      const moment = new Date(time.dateTime);
      time.title = time.textContent;
      time.textContent = (time.dataset.precision === "day" ? daily : precise).format(moment);
    }
  }

  function announce(root) {
    const said = document.getElementById("announcement");
    const part = root.querySelector("[data-announce]");
    // Only a change is said: what a page shows at first is read with the page.
    if (part && announce.last !== undefined && announce.last !== part.dataset.announce) {
      said.textContent = part.dataset.announce;
    }
    if (part) announce.last = part.dataset.announce;
  }

  function isBeingRead(part) {
    const selection = window.getSelection();
    return !selection.isCollapsed && selection.containsNode(part, true);
  }

  function keepScrolled(part) {
    const places = new Map();
    for (const area of part.querySelectorAll(".m-table-scroll[id], pre[id]")) {
      places.set(area.id, [area.scrollLeft, area.scrollTop]);
    }
    return () => {
      for (const [id, [left, top]] of places) {
        const area = document.getElementById(id);
        if (area) area.scrollTo({ left, top, behavior: "instant" });
      }
    };
  }

  function followLiveParts() {
    let restore = () => {};
    let stale = null;
    document.body.addEventListener("htmx:beforeRequest", (event) => {
      if (document.hidden) event.preventDefault();
    });
    document.body.addEventListener("htmx:beforeSwap", (event) => {
      if (isBeingRead(event.detail.target)) event.detail.shouldSwap = false;
      restore = keepScrolled(event.detail.target);
    });
    document.body.addEventListener("htmx:afterSwap", () => {
      const part = document.getElementById("live");
      localise(part);
      announce(part);
      restore();
    });
    const fail = () => {
      if (stale) return;
      stale = document.createElement("p");
      stale.className = "m-notice m-notice-warn";
      stale.setAttribute("role", "status");
      stale.textContent = "The service does not answer: what you see may be out of date. It is asked again every few seconds.";
      document.getElementById("live").before(stale);
    };
    document.body.addEventListener("htmx:sendError", fail);
    document.body.addEventListener("htmx:responseError", fail);
    document.body.addEventListener("htmx:afterRequest", (event) => {
      if (!event.detail.successful || !stale) return;
      stale.remove();
      stale = null;
    });
  }

  function sendOnce() {
    document.addEventListener("submit", (event) => {
      const button = event.submitter;
      if (!button || event.target.method !== "post") return;
      // After the form's values are taken: a disabled button's own value would be missing.
      setTimeout(() => {
        button.disabled = true;
        if (event.target.dataset.once) button.textContent = event.target.dataset.once;
      });
    });
    // Coming back with the browser's Back button restores the page as it was left.
    window.addEventListener("pageshow", (event) => {
      if (event.persisted) window.location.reload();
    });
  }

  function showMaximumCost() {
    const output = document.getElementById("maximum-cost");
    const minutes = document.getElementById("minutes");
    if (!output) return;
    const otherwise = output.textContent;
    const number = new Intl.NumberFormat(undefined, { maximumFractionDigits: 2, minimumFractionDigits: 2 });
    const show = () => {
      const size = document.querySelector("input[name=choice]:checked");
      const cost = size ? (size.dataset.microcreditsPerHour / 1e6) * (minutes.value / 60) : 0;
      output.textContent = cost > 0 ? `${number.format(Math.ceil(cost * 100) / 100)} credits` : otherwise;
    };
    minutes.form.addEventListener("input", show);
    show();
    const file = document.querySelector("input[data-chooses]");
    file.addEventListener("change", () => {
      document.querySelector(`input[name=notebook][value=${file.dataset.chooses}]`).checked = true;
    });
  }

  localise(document);
  announce(document);
  followLiveParts();
  sendOnce();
  showMaximumCost();
})();
