// Stops the default server and shows the page anew, with what is true then.
"use strict";
require(["jhapi", "utils"], (JHAPI, utils) => {
  const button = document.getElementById("stop-default-server");
  if (!button) return;
  const api = new JHAPI(window.jhdata.base_url);
  button.addEventListener("click", () => {
    button.disabled = true;
    button.textContent = "Stopping…";
    api.stop_server(window.jhdata.user, {
      success: () => window.location.reload(),
      error: (...answer) => {
        button.disabled = false;
        button.textContent = "Stop my server";
        utils.ajax_error_dialog(...answer);
      },
    });
  });
});
