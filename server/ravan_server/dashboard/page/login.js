// Asking for the operators' token, where the server wants it.

import { byId, setText } from "./dom.js";
import { forgetToken, hasToken, keepToken } from "./server.js";

let onToken = () => {};

export function setUpLogin(then) {
  onToken = then;
  const dialog = byId("login");
  byId("login-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const token = byId("token").value.trim();
    byId("token").value = "";
    if (!/^[A-Za-z0-9_-]{1,200}$/.test(token)) {
      setText("login-error", "A token has letters, digits, - and _ only.");
      return;
    }
    keepToken(token);
    dialog.close();
    byId("sign-out").hidden = false;
    onToken();
  });
  dialog.addEventListener("cancel", (event) => event.preventDefault()); // there is nothing to see without
  byId("sign-out").addEventListener("click", () => {
    forgetToken();
    location.reload();
  });
  byId("sign-out").hidden = !hasToken();
}

export function askForToken(refused) {
  setText("login-error", refused.reason === "bad_token" ? "This is not the token of this server's operators." : "");
  forgetToken();
  byId("sign-out").hidden = true;
  if (!byId("login").open) byId("login").showModal();
}
