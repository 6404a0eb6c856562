// Fetches what goes on now every few seconds, while somebody looks. What cannot be fetched is shown as old.
document.addEventListener("DOMContentLoaded", () => {
  const live = document.getElementById("live");
  if (!live) return;
  const refresh = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(live.dataset.url, { redirect: "error" });
      if (!answer.ok) throw new Error(answer.status);
      live.innerHTML = await answer.text();
      live.classList.remove("gw-stale");
    } catch {
      live.classList.add("gw-stale");
    }
  };
  setInterval(refresh, 1000 * live.dataset.seconds);
});
