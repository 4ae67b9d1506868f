"use strict";
(() => {
  const counts = JSON.parse(document.getElementById("counts").textContent);
  const [normals, anomalies] = counts.totals;
  const find = (id) => document.getElementById(id);
  const slider = find("slider");
  const reset = find("reset");
  const images = Array.from(document.querySelectorAll("figure[data-score]"));

  const gap = "\u00a0"; // no line ends here
  // Integers round half up exactly, as in markup.py.
  const tenths = (count, total) => Math.floor((2000 * count + total) / (2 * total));
  const percent = (count, total) => (total ? `${(tenths(count, total) / 10).toFixed(1)}${gap}%` : "–");
  const grouped = (count) => count.toLocaleString("en-US");
  const share = (count, total) => `${percent(count, total)} (${grouped(count)}${gap}of${gap}${grouped(total)})`;
  const set = (id, value) => {
    if (find(id)) find(id).textContent = value;
  };
  const move = (id, x, y) => {
    if (!find(id)) return;
    find(id).style.display = Number.isNaN(y) ? "none" : "";
    find(id).style.left = `${100 * x}%`;
    find(id).style.bottom = `${100 * y}%`;
  };

  const update = () => {
    const index = Number(slider.value);
    const threshold = counts.thresholds[index];
    const flagged = counts.normal[index];
    const found = counts.anomalous[index];
    const shown = threshold.toFixed(counts.decimals);
    const own = index === counts.own;
    find("line").style.left = `${100 * counts.positions[index]}%`;
    slider.setAttribute("aria-valuetext", shown);
    set("threshold", shown);
    set("whose", own ? "of the detector" : "chosen by hand");
    set("flagged", share(flagged, normals));
    set("missed", share(anomalies - found, anomalies));
    set("precision", share(found, found + flagged));
    set("command", `mcl_tf.export.set_threshold("saved_model", value=${own ? threshold : shown})`);
    move("roc-point", flagged / normals, found / anomalies);
    move("pr-point", found / anomalies, found / (found + flagged)); // not a number if none is flagged
    reset.disabled = own;
    for (const image of images) {
      const above = Number(image.dataset.score) > threshold;
      image.className = above ? "flagged" : "passed";
      image.querySelector("figcaption b").textContent = image.className;
    }
  };

  slider.addEventListener("input", update);
  reset.addEventListener("click", () => {
    slider.value = counts.own;
    update();
    slider.focus();
  });
  slider.parentElement.hidden = false;
  reset.hidden = false;
  slider.value = counts.own; // a browser may keep the position of an earlier visit
  update();
})();
