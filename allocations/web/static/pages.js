// The pages work without this. With it, times are in the reader's zone, live parts stay readable while they change,
// a form is sent once, and the submission form says what a run costs at most.
"use strict";
(() => {
  const precise = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const daily = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
  // A day without a time is one of the calendar: of the reader's zone it could become the day before.
  const ofCalendar = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeZone: "UTC" });

  function localise(root) {
    for (const time of root.querySelectorAll("time[datetime]:not([title])")) {
      const moment = new Date(time.dateTime);
      const format = !time.dateTime.includes("T") ? ofCalendar : time.dataset.precision === "day" ? daily : precise;
      time.title = time.textContent;
      time.textContent = format.format(moment);
    }
    for (const label of root.querySelectorAll("[data-day]")) {
      label.textContent = ofCalendar.format(new Date(label.dataset.day));
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

  const isAtEnd = (area) => area.scrollHeight - area.scrollTop - area.clientHeight < 8;

  function isInSight(area, row) {
    const [inner, outer] = [row.getBoundingClientRect(), area.getBoundingClientRect()];
    return inner.top < outer.bottom && inner.bottom > outer.top;
  }

  // A log is followed at its end and a list of cells at the present one, until the reader looks elsewhere in it.
  function isFollowed(area) {
    if (area.dataset.follow === "end") return isAtEnd(area);
    const row = area.querySelector("[data-present]");
    return row ? isInSight(area, row) : area.scrollTop === 0;
  }

  function follow(area) {
    if (area.dataset.follow === "end") area.scrollTop = area.scrollHeight;
    const row = area.querySelector("[data-present]");
    if (row) area.scrollTop += row.getBoundingClientRect().top - area.getBoundingClientRect().top - area.clientHeight / 2;
  }

  function keepScrolled(part) {
    const places = new Map();
    const followed = new Set();
    for (const area of part.querySelectorAll(".m-table-scroll[id], pre[id]")) {
      places.set(area.id, [area.scrollLeft, area.scrollTop]);
      if (area.dataset.follow && isFollowed(area)) followed.add(area.id);
    }
    return () => {
      for (const [id, [left, top]] of places) {
        const area = document.getElementById(id);
        if (!area) continue;
        area.scrollTo({ left, top, behavior: "instant" });
        if (followed.has(id)) follow(area);
      }
    };
  }

  function keepTicked(part) {
    const ticked = [...part.querySelectorAll("input[type=checkbox]:checked")].map((box) => box.id);
    return () => {
      for (const id of ticked) {
        const box = document.getElementById(id);
        if (box) box.checked = true;
      }
    };
  }

  // Forms that are kept while somebody writes ask the service too, and are no live parts.
  const saves = (event) => event.detail.requestConfig?.elt.dataset.saving !== undefined;

  function followLiveParts() {
    let restore = () => {};
    let stale = null;
    document.body.addEventListener("htmx:beforeRequest", (event) => {
      if (document.hidden && !saves(event)) event.preventDefault();
    });
    document.body.addEventListener("htmx:beforeSwap", (event) => {
      if (saves(event)) return;
      if (isBeingRead(event.detail.target)) event.detail.shouldSwap = false;
      const keeps = [keepScrolled(event.detail.target), keepTicked(event.detail.target)];
      restore = () => keeps.forEach((keep) => keep());
    });
    document.body.addEventListener("htmx:afterSwap", (event) => {
      if (saves(event)) return localise(event.detail.target);
      const part = document.getElementById("live");
      localise(part);
      announce(part);
      restore();
    });
    const fail = (event) => {
      if (saves(event)) {
        event.detail.requestConfig.elt.textContent =
          "Not saved: the service does not answer, or your session has ended. Keep this page open: what you write stays in it.";
        return;
      }
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
    const retries = document.getElementById("retries");
    if (!output) return;
    const otherwise = output.textContent;
    const number = new Intl.NumberFormat(undefined, { maximumFractionDigits: 2, minimumFractionDigits: 2 });
    const show = () => {
      const size = document.querySelector("input[name=choice]:checked");
      const cost = size ? (size.dataset.microcreditsPerHour / 1e6) * (minutes.value / 60) * (1 + Number(retries.value)) : 0;
      output.textContent = cost > 0 ? `${number.format(Math.ceil(cost * 100) / 100)} credits` : otherwise;
    };
    minutes.form.addEventListener("input", show);
    show();
  }

  function chooseByFile() {
    const file = document.querySelector("input[data-chooses]");
    file?.addEventListener("change", () => {
      document.querySelector(`input[name=notebook][value=${file.dataset.chooses}]`).checked = true;
    });
  }

  // The form says who gets what; dragging only fills in its first two fields.
  function moveByDragging() {
    const form = document.getElementById("move");
    if (!form) return;
    form.querySelector("[data-drag-hint]").hidden = false;
    const parts = document.querySelectorAll("[data-part]");
    let dragged = null;
    for (const part of parts) {
      part.draggable = true;
      part.addEventListener("dragstart", (event) => {
        dragged = part;
        event.stopPropagation();
        event.dataTransfer.effectAllowed = "move";
        event.dataTransfer.setData("text/plain", part.dataset.part);
      });
      part.addEventListener("dragend", () => {
        dragged = null;
        for (const other of parts) other.classList.remove("p-drop");
      });
      part.addEventListener("dragover", (event) => {
        if (!dragged || dragged === part) return;
        event.preventDefault();
        part.classList.add("p-drop");
      });
      part.addEventListener("dragleave", () => part.classList.remove("p-drop"));
      part.addEventListener("drop", (event) => {
        if (!dragged || dragged === part) return;
        event.preventDefault();
        form.elements.source.value = dragged.dataset.part;
        form.elements.target.value = part.dataset.part;
        form.elements.amount.focus();
      });
    }
  }

  localise(document);
  announce(document);
  document.querySelectorAll("[data-follow]").forEach(follow);
  followLiveParts();
  sendOnce();
  showMaximumCost();
  chooseByFile();
  moveByDragging();
})();
