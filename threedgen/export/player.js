
// Shows the mesh of this page, and plays it if it moves. The page holds the positions of every frame (16 bits), and the
// colours of every vertex, or places in a picture and that picture.
'use strict';

const byId = id => document.getElementById(id);
const scene = JSON.parse(byId('scene').textContent);
const canvas = document.querySelector('canvas');
const gl = canvas.getContext('webgl2', {antialias: true});
const slider = byId('time');
const FOV = 40 * Math.PI / 180;

const VERTEX = `#version 300 es
in vec3 from, to, fromNormal, toNormal, color;
in vec2 spot;
uniform vec3 low, span, eye, right, up, back;
uniform vec2 focal, depth;
uniform float share;
out vec3 normal, tint, toEye;
out vec2 place;
void main() {
  vec3 position = low + span * mix(from, to, share);
  toEye = eye - position;
  normal = mix(fromNormal, toNormal, share);
  tint = color;
  place = spot;
  vec3 seen = vec3(dot(right, -toEye), dot(up, -toEye), dot(back, -toEye));
  float near = depth.x, far = depth.y;
  gl_Position = vec4(seen.xy * focal, (seen.z * (far + near) + 2.0 * far * near) / (near - far), -seen.z);
}`;
// Colours that are to be lit get a faint lamp at the camera, which only makes the shape visible; others have their light.
const FRAGMENT = `#version 300 es
precision highp float;
uniform sampler2D picture;
uniform float lamp;
in vec3 normal, tint, toEye;
in vec2 place;
out vec4 pixel;
void main() {
  float facing = abs(dot(normalize(normal), normalize(toEye)));
  pixel = vec4(tint * texture(picture, place).rgb * (1.0 - lamp + lamp * facing), 1.0);
}`;

function decoded() {
  const bytes = Uint8Array.from(atob(byId('data').textContent), letter => letter.charCodeAt(0));
  let at = 0;
  const take = (kind, count) => {
    const part = new kind(bytes.buffer, at, count);
    at += part.byteLength;
    return part;
  };
  const faces = take(Uint32Array, 3 * scene.faces);
  const twins = scene.welded ? take(Uint32Array, scene.vertices) : null;
  const spots = scene.textured ? take(Float32Array, 2 * scene.vertices) : null;
  const positions = take(Uint16Array, 3 * scene.frames * scene.vertices);
  return {faces, twins, spots, positions, rest: bytes.subarray(at)}; // the colours, or the picture
}

// Unit normals of every frame, four signed bytes each: area-weighted means of the normals of the faces. The twin of a
// vertex is the one that it is a copy of, made where the texture is cut.
function smoothNormals(faces, twins, positions) {
  const owners = twins ? faces.map(vertex => twins[vertex]) : faces;
  const count = scene.vertices;
  const result = new Int8Array(4 * scene.frames * count);
  const sums = new Float32Array(3 * count);
  const [sx, sy, sz] = scene.span;
  for (let frame = 0; frame < scene.frames; frame++) {
    const p = positions.subarray(3 * frame * count, 3 * (frame + 1) * count);
    sums.fill(0);
    for (let f = 0; f < faces.length; f += 3) {
      const a = 3 * faces[f], b = 3 * faces[f + 1], c = 3 * faces[f + 2];
      const ux = sx * (p[b] - p[a]), uy = sy * (p[b + 1] - p[a + 1]), uz = sz * (p[b + 2] - p[a + 2]);
      const vx = sx * (p[c] - p[a]), vy = sy * (p[c + 1] - p[a + 1]), vz = sz * (p[c + 2] - p[a + 2]);
      const x = uy * vz - uz * vy, y = uz * vx - ux * vz, z = ux * vy - uy * vx;
      for (let side = 0; side < 3; side++) {
        const corner = 3 * owners[f + side];
        sums[corner] += x;
        sums[corner + 1] += y;
        sums[corner + 2] += z;
      }
    }
    for (let v = 0; v < count; v++) {
      const place = 3 * (twins ? twins[v] : v);
      const length = Math.hypot(sums[place], sums[place + 1], sums[place + 2]) || 1;
      for (let axis = 0; axis < 3; axis++) {
        result[4 * (frame * count + v) + axis] = Math.round(127 * sums[place + axis] / length);
      }
    }
  }
  return result;
}

function compiled() {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  return program;
}

function buffer(target, data) {
  const made = gl.createBuffer();
  gl.bindBuffer(target, made);
  gl.bufferData(target, data, gl.STATIC_DRAW);
  return made;
}

// The picture as the texture that the shader reads; without one, a white pixel. Its first row is at v = 0.
async function painted(picture) {
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  const plain = {premultiplyAlpha: 'none', colorSpaceConversion: 'none'};
  const source = picture ? await createImageBitmap(new Blob([picture], {type: 'image/png'}), plain)
    : new ImageData(new Uint8ClampedArray(4).fill(255), 1, 1);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, source);
  gl.generateMipmap(gl.TEXTURE_2D);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
  for (const wrap of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, wrap, gl.CLAMP_TO_EDGE);
}

async function start() {
  const program = compiled();
  const {faces, twins, spots, positions, rest} = decoded();
  const places = buffer(gl.ARRAY_BUFFER, positions);
  const normals = buffer(gl.ARRAY_BUFFER, smoothNormals(faces, twins, positions));
  const paint = buffer(gl.ARRAY_BUFFER, spots || rest);
  await painted(spots && rest);
  buffer(gl.ELEMENT_ARRAY_BUFFER, faces);
  gl.useProgram(program);
  gl.enable(gl.DEPTH_TEST);
  gl.clearColor(1, 1, 1, 1);

  const uniform = name => gl.getUniformLocation(program, name);
  const center = scene.low.map((low, axis) => low + 0.5 * 65535 * scene.span[axis]);
  const size = 0.5 * 65535 * Math.hypot(...scene.span) || 1;
  const home = {azimuth: scene.azimuth * Math.PI / 180, elevation: 15 * Math.PI / 180, radius: size / Math.sin(FOV / 2)};
  const camera = {...home};
  const last = scene.frames - 1;
  gl.uniform1f(uniform('lamp'), scene.lamp);
  let share = 0, playing = last > 0, before = null, stale = true;
  byId('loop').checked = scene.loop;

  function attribute(name, source, type, stride, frame, size = 3) {
    const place = gl.getAttribLocation(program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, source);
    gl.enableVertexAttribArray(place);
    // Numbers of 16 bits stay whole, because `span` is the size of one step; the others become shares of 1.
    gl.vertexAttribPointer(place, size, type, type !== gl.UNSIGNED_SHORT, stride, frame * scene.vertices * stride);
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, {width, height});
    gl.viewport(0, 0, width, height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const frame = Math.max(0, Math.min(Math.floor(share * last), last - 1)), next = Math.min(frame + 1, last);
    attribute('from', places, gl.UNSIGNED_SHORT, 6, frame);
    attribute('to', places, gl.UNSIGNED_SHORT, 6, next);
    attribute('fromNormal', normals, gl.BYTE, 4, frame);
    attribute('toNormal', normals, gl.BYTE, 4, next);
    if (spots) {
      attribute('spot', paint, gl.FLOAT, 8, 0, 2);
      gl.vertexAttrib3f(gl.getAttribLocation(program, 'color'), 1, 1, 1);
    } else {
      attribute('color', paint, gl.UNSIGNED_BYTE, 3, 0);
    }
    const {azimuth: a, elevation: e, radius} = camera;
    const back = [Math.cos(e) * Math.sin(a), Math.sin(e), Math.cos(e) * Math.cos(a)];
    const focal = 1 / Math.tan(FOV / 2) * Math.min(1, width / height);
    gl.uniform3fv(uniform('low'), scene.low);
    gl.uniform3fv(uniform('span'), scene.span);
    gl.uniform3fv(uniform('eye'), center.map((value, axis) => value + radius * back[axis]));
    gl.uniform3f(uniform('right'), Math.cos(a), 0, -Math.sin(a));
    gl.uniform3f(uniform('up'), -Math.sin(e) * Math.sin(a), Math.cos(e), -Math.sin(e) * Math.cos(a));
    gl.uniform3fv(uniform('back'), back);
    gl.uniform2f(uniform('focal'), focal * height / width, focal);
    gl.uniform2f(uniform('depth'), 0.01 * radius, radius + 2 * size);
    gl.uniform1f(uniform('share'), share * last - frame);
    gl.drawElements(gl.TRIANGLES, faces.length, gl.UNSIGNED_INT, 0);
    slider.value = share;
    byId('clock').textContent = `${(share * scene.seconds).toFixed(2)} / ${scene.seconds.toFixed(2)} s`;
    byId('play').textContent = playing ? 'Pause' : 'Play';
  }

  function tick(now) {
    if (playing && before !== null) {
      share += (now - before) / 1000 / scene.seconds;
      if (share >= 1) {
        playing = byId('loop').checked;
        share = playing ? share % 1 : 1;
      }
      stale = true;
    }
    before = now;
    if (stale) draw();
    stale = false;
    requestAnimationFrame(tick);
  }

  function goTo(value, play = false) {
    share = Math.min(1, Math.max(0, value));
    playing = play;
    stale = true;
  }

  const toggle = () => goTo(!playing && share >= 1 ? 0 : share, !playing);
  const zoom = factor => {
    camera.radius = Math.min(8, Math.max(0.15, camera.radius * factor / home.radius)) * home.radius;
    stale = true;
  };
  byId('play').addEventListener('click', toggle);
  byId('controls').addEventListener('submit', event => event.preventDefault());
  slider.addEventListener('input', () => goTo(Number(slider.value)));
  addEventListener('resize', () => { stale = true; });
  addEventListener('keydown', event => {
    if (!last || event.target.tagName === 'BUTTON' || event.target.type === 'checkbox') return;
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (event.key === ' ') toggle();
    else if (step) goTo((Math.round(share * last) + step) / last);
    else return;
    event.preventDefault();
  });

  const fingers = new Map();
  const apart = () => {
    const [a, b] = [...fingers.values()];
    return Math.hypot(a.x - b.x, a.y - b.y) || 1;
  };
  canvas.addEventListener('pointerdown', event => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, {x: event.clientX, y: event.clientY});
  });
  for (const end of ['pointerup', 'pointercancel']) {
    canvas.addEventListener(end, event => fingers.delete(event.pointerId));
  }
  canvas.addEventListener('pointermove', event => {
    const was = fingers.get(event.pointerId);
    if (!was) return;
    const wide = fingers.size === 2 ? apart() : 0;
    fingers.set(event.pointerId, {x: event.clientX, y: event.clientY});
    if (wide) return zoom(wide / apart());
    camera.azimuth -= 0.01 * (event.clientX - was.x);
    camera.elevation = Math.min(1.5, Math.max(-1.5, camera.elevation + 0.01 * (event.clientY - was.y)));
    stale = true;
  });
  canvas.addEventListener('wheel', event => {
    event.preventDefault();
    zoom(Math.exp(0.001 * event.deltaY));
  }, {passive: false});
  canvas.addEventListener('dblclick', () => { Object.assign(camera, home); stale = true; });

  const asked = /^#t=([\d.]+)$/.exec(location.hash); // player.html#t=0.5 opens at half a second, paused
  if (asked && last) goTo(Number(asked[1]) / scene.seconds);
  requestAnimationFrame(tick);
}

if (gl) start();
else byId('said').textContent = 'This browser has no WebGL 2: open the .glb instead.';
