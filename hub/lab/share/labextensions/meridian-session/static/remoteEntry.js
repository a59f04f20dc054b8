// Shows in JupyterLab how long the server can go on and what it costs, and warns before it stops; brings notebooks to
// the platform's form for batch runs.
//
// A module-federation container written by hand, so that nothing has to be built: JupyterLab loads this script, hands
// its shared modules to `init`, and gets the plugin from `get`.
"use strict";
(() => {
  const NAME = "meridian-session";
  const LOOK_MS = 60_000;
  const TICK_MS = 1_000;
  const MINUTE_SECONDS = 60;
  const HOUR_SECONDS = 60 * MINUTE_SECONDS;
  const DAY_SECONDS = 24 * HOUR_SECONDS;

  let shared = {};

  // The module that JupyterLab itself uses: the one that is loaded, else the newest.
  async function take(name) {
    const versions = Object.entries(shared[name] ?? {});
    if (!versions.length) throw new Error(`JupyterLab does not share ${name}`);
    const newest = (one, other) => other.localeCompare(one, "en", { numeric: true });
    versions.sort(([one, a], [other, b]) => Boolean(b.loaded) - Boolean(a.loaded) || newest(one, other));
    return (await versions[0][1].get())();
  }

  // By its two largest units, as the platform's pages say it.
  function duration(seconds) {
    const whole = Math.max(0, Math.floor(seconds));
    const units = [[DAY_SECONDS, "d", HOUR_SECONDS, "h"], [HOUR_SECONDS, "h", MINUTE_SECONDS, "min"]];
    for (const [size, unit, smaller, smallerUnit] of units) {
      if (whole < size) continue;
      const rest = Math.floor((whole % size) / smaller);
      return `${Math.floor(whole / size)} ${unit}${rest ? ` ${rest} ${smallerUnit}` : ""}`;
    }
    return whole < MINUTE_SECONDS ? `${whole} s` : `${Math.floor(whole / MINUTE_SECONDS)} min`;
  }

  function credits(microcredits) {
    const amount = microcredits / 1_000_000;
    const decimals = amount ? Math.max(2, 1 - Math.floor(Math.log10(amount))) : 2;
    return amount.toLocaleString("en", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  }

  // What stops the server first; that nobody uses it counts only when it is near, for use puts it off.
  function stopOf(session, nowMs) {
    const used = {
      atMs: Date.parse(session.stops_at),
      why: `${session.detail} ${session.remedy}`,
      url: session.remedy_url,
    };
    const idleMs = Date.parse(session.idle_stops_at);
    const near = idleMs - nowMs <= 1000 * Math.max(0, ...session.warn_before_stop_seconds);
    if (!near || idleMs >= used.atMs) return used;
    return { atMs: idleMs, why: "It is not used. Extend it to keep it.", url: "" };
  }

  // The narrowest of the policy's warnings that is due, in seconds; undefined while none is.
  function dueWarning(session, secondsLeft) {
    const due = session.warn_before_stop_seconds.filter((seconds) => secondsLeft <= seconds);
    return due.length ? Math.min(...due) : undefined;
  }

  class SessionWatch {
    constructor(modules, serverSettings, statusBar) {
      Object.assign(this, modules);
      this.serverSettings = serverSettings;
      this.url = this.URLExt.join(serverSettings.baseUrl, "meridian/session");
      this.serversUrl = this.URLExt.join(
        this.PageConfig.getOption("hubHost") || "/",
        this.PageConfig.getOption("hubPrefix") || "/hub/",
        "home",
      );
      this.session = null;
      this.warned = {};
      if (statusBar) this.addItem(statusBar);
    }

    addItem(statusBar) {
      this.item = new this.Widget();
      this.item.addClass("jp-mod-highlighted");
      this.link = document.createElement("a");
      this.link.href = this.serversUrl;
      this.link.target = "_blank";
      this.link.rel = "noopener";
      // As the status bar's own texts, in every theme.
      this.link.className = "jp-StatusBar-TextItem";
      Object.assign(this.link.style, { color: "inherit", textDecoration: "none", whiteSpace: "nowrap" });
      this.item.node.append(this.link);
      this.item.hide();
      statusBar.registerStatusItem(`${NAME}:time-left`, { item: this.item, align: "right", rank: 900 });
    }

    start() {
      this.look();
      // A window that nobody sees asks nothing: to ask would count as use of the server.
      setInterval(() => document.hidden || this.look(), LOOK_MS);
      setInterval(() => document.hidden || this.show(), TICK_MS);
      document.addEventListener("visibilitychange", () => document.hidden || this.look());
    }

    async look(method = "GET") {
      try {
        const response = await this.ServerConnection.makeRequest(this.url, { method }, this.serverSettings);
        if (!response.ok) {
          const { message } = await response.json();
          throw new Error(message);
        }
        this.session = await response.json();
        // The hub's clock counts, whatever this machine's says.
        this.offsetMs = Date.parse(this.session.now) - Date.now();
      } catch (error) {
        if (method !== "GET") throw error;
        // What is known still holds; the next look may tell more.
        console.debug(`${NAME}: ${error.message}`);
      }
      this.show();
    }

    show() {
      if (!this.session) return;
      const nowMs = Date.now() + this.offsetMs;
      const stop = stopOf(this.session, nowMs);
      const secondsLeft = (stop.atMs - nowMs) / 1000;
      const warning = dueWarning(this.session, secondsLeft);
      if (this.item) {
        const left = secondsLeft > 0 ? `${duration(secondsLeft)} left` : "stopping";
        const price = `${credits(this.session.microcredits_per_hour)} credits/h`;
        const text = `${left} · ${price}`;
        if (this.link.textContent !== text) this.link.textContent = text;
        this.item.node.title = `${this.session.allocation_name}: at most ${left}. ${stop.why} Opens your servers.`;
        this.link.style.fontWeight = warning === undefined ? "inherit" : "bold";
        this.item.show();
      }
      this.warn(stop, secondsLeft, warning);
    }

    warn(stop, secondsLeft, warning) {
      if (warning === undefined || secondsLeft <= 0) {
        if (this.warned.id) this.Notification.dismiss(this.warned.id);
        this.warned = {};
        return;
      }
      // A stop that moves within a minute is the same stop.
      const same = Math.abs(stop.atMs - this.warned.atMs) < 1000 * MINUTE_SECONDS;
      if (same && this.warned.seconds <= warning) return;
      if (this.warned.id) this.Notification.dismiss(this.warned.id);
      const message = `Your server stops in ${duration(secondsLeft)}: save your work. ${stop.why}`;
      const actions = [
        { label: "Extend", caption: "Ask for more time", callback: () => this.extend() },
        {
          label: stop.url && stop.url !== "/hub/home" ? "What to do" : "My servers",
          caption: stop.why,
          displayType: "link",
          callback: () => window.open(stop.url && stop.url !== "/hub/home" ? stop.url : this.serversUrl, "_blank", "noopener"),
        },
      ];
      const id = this.Notification.warning(message, { autoClose: false, actions });
      this.warned = { id, atMs: stop.atMs, seconds: warning };
    }

    async extend() {
      try {
        await this.look("POST");
      } catch (error) {
        this.Notification.error(`Not extended: ${error.message}`, { autoClose: false });
        return;
      }
      const nowMs = Date.now() + this.offsetMs;
      const stop = stopOf(this.session, nowMs);
      const message = `Your server can go on for ${duration((stop.atMs - nowMs) / 1000)} at most. ${stop.why}`;
      this.Notification.info(message, { autoClose: false });
    }
  }

  // Brings a notebook to the form for batch runs: from the file browser's menu, the notebook's toolbar, the palette.
  class RunInBatch {
    constructor(modules, app, tracker, browsers) {
      Object.assign(this, modules);
      Object.assign(this, { app, tracker, browsers });
      this.url = this.URLExt.join(app.serviceManager.serverSettings.baseUrl, "meridian/batch");
    }

    add(palette) {
      const { commands, contextMenu, docRegistry } = this.app;
      const describe = { label: "Run in Batch…", caption: "Choose parameters, size and time, and run it without a browser" };
      commands.addCommand(`${NAME}:run-in-batch`, {
        ...describe,
        isEnabled: () => Boolean(this.tracker?.currentWidget),
        execute: () => this.bring(this.tracker?.currentWidget?.context.path),
      });
      commands.addCommand(`${NAME}:run-file-in-batch`, { ...describe, execute: () => this.bring(this.selected()) });
      contextMenu.addItem({
        command: `${NAME}:run-file-in-batch`,
        selector: '.jp-DirListing-item[data-file-type="notebook"]',
        rank: 4,
      });
      palette?.addItem({ command: `${NAME}:run-in-batch`, category: "Notebook Operations" });
      docRegistry.addWidgetExtension("Notebook", {
        createNew: (panel) => {
          const label = "Run in batch";
          const button = new this.ToolbarButton({
            label,
            tooltip: describe.caption,
            onClick: () => this.bring(panel.context.path),
          });
          panel.toolbar.insertItem(10, "run-in-batch", button);
          return button;
        },
      });
    }

    selected() {
      return [...(this.browsers?.tracker.currentWidget?.selectedItems() ?? [])].find((item) => item.type === "notebook")?.path;
    }

    async bring(path) {
      if (!path) return;
      // Opened at once: what is opened later, when the answer has come, browsers take for an advertisement.
      const tab = window.open("", "_blank");
      try {
        const open = this.tracker?.find((panel) => panel.context.path === path);
        if (open?.context.model.dirty) await open.context.save();
        const request = { method: "POST", body: JSON.stringify({ path }) };
        const response = await this.ServerConnection.makeRequest(this.url, request, this.app.serviceManager.serverSettings);
        const answer = await response.json();
        if (!response.ok) throw new Error(answer.message);
        const page = this.URLExt.join(this.PageConfig.getOption("hubHost") || "/", answer.page);
        if (tab) {
          tab.opener = null;
          tab.location.href = page;
        } else {
          const action = { label: "Open the form", displayType: "link", callback: () => window.open(page, "_blank", "noopener") };
          this.Notification.info("The form for the batch run is ready.", { autoClose: false, actions: [action] });
        }
      } catch (error) {
        tab?.close();
        this.Notification.error(`Not brought to the form: ${error.message}`, { autoClose: false });
      }
    }
  }

  async function runInBatch(modules) {
    const [filebrowser, notebook, components, apputils] = await Promise.all(
      ["filebrowser", "notebook", "ui-components", "apputils"].map((name) => take(`@jupyterlab/${name}`)),
    );
    return {
      id: `${NAME}:run-in-batch`,
      description: "Brings a notebook to the platform's form for batch runs.",
      autoStart: true,
      optional: [notebook.INotebookTracker, filebrowser.IFileBrowserFactory, apputils.ICommandPalette],
      activate: (app, tracker, browsers, palette) =>
        new RunInBatch({ ...modules, ToolbarButton: components.ToolbarButton }, app, tracker, browsers).add(palette),
    };
  }

  async function extension() {
    const [coreutils, services, apputils, statusbar, widgets] = await Promise.all(
      ["coreutils", "services", "apputils", "statusbar"].map((name) => take(`@jupyterlab/${name}`))
        .concat(take("@lumino/widgets")),
    );
    const modules = {
      PageConfig: coreutils.PageConfig,
      URLExt: coreutils.URLExt,
      ServerConnection: services.ServerConnection,
      Notification: apputils.Notification,
      Widget: widgets.Widget,
    };
    const session = {
      id: `${NAME}:plugin`,
      description: "Shows the time left and the price of the server, and warns before it stops.",
      autoStart: true,
      optional: [statusbar.IStatusBar],
      activate: (app, statusBar) => new SessionWatch(modules, app.serviceManager.serverSettings, statusBar).start(),
    };
    return { __esModule: true, default: [session, await runInBatch(modules)] };
  }

  window._JUPYTERLAB = window._JUPYTERLAB ?? {};
  window._JUPYTERLAB[NAME] = {
    init: (scope) => {
      shared = scope;
    },
    get: async (_module) => {
      const made = await extension();
      return () => made;
    },
  };
})();
