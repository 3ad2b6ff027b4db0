// Says when the server does not answer, and closes the answer to a why in place. The page works without it.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const silent = document.getElementById("silent");
  const body = document.body;
  const hush = (quiet) => { silent.hidden = quiet; body.classList.toggle("old", !quiet); };
  body.addEventListener("htmx:sendError", () => hush(false));
  body.addEventListener("htmx:responseError", () => hush(false));
  body.addEventListener("htmx:afterOnLoad", () => hush(true));
  body.addEventListener("click", (event) => {
    const slot = document.getElementById("why");
    if (slot && event.target.closest("[data-close]")) {
      event.preventDefault();
      slot.replaceChildren();
    }
  });
});
