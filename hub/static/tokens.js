// Makes and revokes tokens by the hub's own API, and shows times in the reader's zone.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const { base_url, user, xsrf_token } = window.jhdata;
  const find = (id) => document.getElementById(id);
  const form = find("request-token");
  const problem = find("token-problem");
  const status = find("token-status");

  for (const place of document.querySelectorAll("[data-origin]")) place.textContent = window.location.origin;
  const format = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  for (const time of document.querySelectorAll("time")) time.textContent = format.format(new Date(time.dateTime));

  async function call(method, path, body) {
    problem.hidden = status.hidden = true;
    const address = `${base_url}api/users/${encodeURIComponent(user)}/tokens${path}?_xsrf=${encodeURIComponent(xsrf_token)}`;
    const headers = { "Content-Type": "application/json" };
    const response = await fetch(address, { method, headers, body: body && JSON.stringify(body) });
    if (response.ok) return response.status === 204 ? null : response.json();
    const answer = await response.json().catch(() => ({}));
    throw new Error(answer.message || `The hub answered with status ${response.status}.`);
  }

  function complain(sentence) {
    problem.textContent = sentence;
    problem.hidden = false;
    problem.scrollIntoView({ block: "nearest" });
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const sent = new FormData(form);
    const body = { note: sent.get("note"), expires_in: Number(sent.get("expires")) || null };
    if (!sent.has("all")) body.scopes = sent.getAll("scope");
    if (body.scopes && !body.scopes.length) return complain("Tick at least one thing that the token may do.");
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      find("token-result").textContent = (await call("POST", "", body)).token;
      find("copy-status").textContent = "";
      find("new-token").hidden = false;
      find("new-token-title").focus();
      form.reset();
    } catch (error) {
      complain(`No token was made. ${error.message}`);
    } finally {
      button.disabled = false;
    }
  });

  find("copy-token").addEventListener("click", async () => {
    const token = find("token-result");
    try {
      await navigator.clipboard.writeText(token.textContent);
      find("copy-status").textContent = "Copied.";
    } catch {
      window.getSelection().selectAllChildren(token);
      find("copy-status").textContent = "It is marked: copy it with your keyboard.";
    }
  });

  for (const button of document.querySelectorAll("[data-revoke]")) {
    button.addEventListener("click", async () => {
      const { revoke, name } = button.dataset;
      if (!window.confirm(`Revoke “${name}”? What uses it stops working within a minute.`)) return;
      button.disabled = true;
      try {
        await call("DELETE", `/${encodeURIComponent(revoke)}`);
        button.closest("tr").remove();
        status.textContent = `“${name}” is revoked.`;
        status.hidden = false;
        status.focus();
      } catch (error) {
        button.disabled = false;
        complain(`“${name}” is not revoked. ${error.message}`);
      }
    });
  }
});
