"use strict";
(() => {
  const models = JSON.parse(document.getElementById("samples").textContent);
  const at = (id) => document.getElementById(id);
  const option = (text, value) => Object.assign(document.createElement("option"), { textContent: text, value });
  const pickModel = at("pick-model");
  const pickSample = at("pick-sample");

  const show = () => {
    const model = models[pickModel.value];
    const sample = model.samples[pickSample.value];
    for (const name of ["target", "render", "nearest", "error", "context0", "context1"]) at(name).src = sample[name];
    at("frame").style.aspectRatio = sample.aspect;
    at("caption").textContent =
      `${model.name}, ${sample.name}: render ${sample.psnr} dB, nearest context view ${sample.psnr_nearest} dB`;
    at("psnr-nearest").textContent = `${sample.psnr_nearest} dB`;
    at("frame0").textContent = `(frame ${sample.frames[0]})`;
    at("frame1").textContent = `(frame ${sample.frames[1]})`;
  };
  const listSamples = () => {
    const before = pickSample.selectedOptions[0]?.textContent;
    const options = models[pickModel.value].samples.map((sample, number) => option(sample.name, number));
    pickSample.replaceChildren(...options);
    const same = options.find((item) => item.textContent === before);
    if (same) pickSample.value = same.value;
    show();
  };
  pickModel.replaceChildren(...models.map((model, number) => option(model.name, number)));
  pickModel.addEventListener("change", listSamples);
  pickSample.addEventListener("change", show);
  at("at").addEventListener("input", (event) => at("frame").style.setProperty("--at", `${event.target.value}%`));
  listSamples();
})();
