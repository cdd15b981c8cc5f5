// Runs in the reader's browser: a button that records, or a field to choose files, or both.
// What it gets goes to the kernel as a message. Widget state would be saved with the notebook; messages are not.

const RATE = 16000; // samples a second, what Whisper hears
const SIDE = 1024; // pixels, the longest side of a picture that is sent

async function record(seconds, say) {
  if (!navigator.mediaDevices) {
    throw new Error("browsers give the microphone only to pages from localhost or https; choose a file instead");
  }
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  try {
    const recorder = new MediaRecorder(stream);
    const parts = [];
    recorder.ondataavailable = (event) => parts.push(event.data);
    const stopped = new Promise((done) => (recorder.onstop = done));
    recorder.start();
    for (let left = seconds; left > 0; left -= 1) {
      say(`Speak now. ${left} s left.`);
      await new Promise((done) => setTimeout(done, Math.min(left, 1) * 1000));
    }
    recorder.stop();
    await stopped;
    return new Blob(parts, { type: recorder.mimeType });
  } finally {
    stream.getTracks().forEach((track) => track.stop()); // the browser's red dot goes out
  }
}

// Any sound that this browser can play, as mono float32 at 16 kHz.
async function samples(blob, longest) {
  const context = new AudioContext({ sampleRate: RATE });
  let sound;
  try {
    sound = await context.decodeAudioData(await blob.arrayBuffer());
  } catch {
    throw new Error("this browser cannot read it as a sound");
  } finally {
    context.close();
  }
  if (sound.duration > longest) {
    throw new Error(`it is ${Math.round(sound.duration)} s long, at most ${longest} s are taken`);
  }
  const mono = new Float32Array(sound.length);
  for (let c = 0; c < sound.numberOfChannels; c += 1) {
    sound.getChannelData(c).forEach((value, i) => (mono[i] += value / sound.numberOfChannels));
  }
  return mono.buffer;
}

// A picture as a JPEG of at most SIDE pixels a side, upright. Place and camera, if the file told them, are gone.
async function shrunk(file) {
  let image;
  try {
    image = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    throw new Error("this browser cannot read it as a picture (photos in HEIC: save as JPEG first)");
  }
  const scale = Math.min(1, SIDE / Math.max(image.width, image.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  const paper = canvas.getContext("2d");
  paper.fillStyle = "white";
  paper.fillRect(0, 0, canvas.width, canvas.height);
  paper.drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
  return blob.arrayBuffer();
}

function render({ model, el }) {
  const [kind, seconds, longest] = ["kind", "seconds", "longest"].map((name) => model.get(name));
  const status = document.createElement("div");
  status.setAttribute("role", "status");
  const say = (text) => (status.textContent = text);
  const send = (name, content) => model.send({ name }, undefined, [content]);

  if (kind === "sound") {
    const button = document.createElement("button");
    button.textContent = `Record ${seconds} s`;
    button.onclick = async () => {
      button.disabled = true;
      say("Your browser asks whether this page may use the microphone.");
      try {
        send("recording", await samples(await record(seconds, say), longest));
        say("Recorded. Now run the next cell, and those after it.");
      } catch (error) {
        say(`No recording: ${error.message || error.name}.`);
      }
      button.disabled = false;
    };
    el.append(button, " or a sound file: ");
  } else {
    el.append("Pictures: ");
  }
  const field = document.createElement("input");
  Object.assign(field, { type: "file", multiple: kind !== "sound", accept: kind === "sound" ? "audio/*" : "image/*" });
  field.onchange = async () => {
    const told = [];
    for (const file of field.files) {
      try {
        send(file.name, kind === "sound" ? await samples(file, longest) : await shrunk(file));
        told.push(`${file.name}: here`);
      } catch (error) {
        told.push(`${file.name}: not taken, ${error.message}`);
      }
    }
    say(`${told.join("; ")}. Now run the next cell, and those after it.`);
  };
  el.append(field, status);
}

export default { render };
