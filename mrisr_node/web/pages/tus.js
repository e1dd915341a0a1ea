// Sends a file by the tus resumable protocol (https://tus.io), and goes on by itself where the
// connection breaks off. Where a file was left is remembered in this browser, by a digest of what
// is known of it, so that it goes on after the page was closed, once it is chosen again.

const VERSION = { 'Tus-Resumable': '1.0.0' };
const PIECE = 32 * 2 ** 20;
const FIRST_DELAY_MS = 1000;
const LONGEST_DELAY_MS = 30000;
// The server asks to come again: busy with this file, too slow, too often, or not there.
const PASSES = [0, 408, 409, 423, 425, 429, 500, 502, 503, 504, 507];

export class Refused extends Error {}

export class Transfer {
  // `told` gets {offset, waiting}: how much is there, and why nothing goes on now.
  constructor(file, owner, told) {
    Object.assign(this, { file, told, offset: 0, url: null, request: null, ended: false });
    this.place = `mrisr-upload-${digest([owner, file.name, file.size, file.lastModified])}`;
  }

  async run() {
    this.url = localStorage.getItem(this.place);
    let tries = 0;
    while (!this.ended && (this.url === null || this.offset < this.file.size)) {
      const before = this.offset;
      try {
        await (this.url === null ? this.create() : this.goOn());
        tries = 0;
      } catch (error) {
        if (this.ended) break;
        if (error instanceof Refused) throw error;
        if (this.offset > before) tries = 0;
        this.told({ offset: this.offset, waiting: error.message });
        await pause(Math.min(FIRST_DELAY_MS * 2 ** tries++, LONGEST_DELAY_MS));
      }
    }
    if (!this.ended) this.forget();
    return this.url?.split('/').pop();
  }

  // Stops sending; what has come by then stays there.
  stop() {
    this.ended = true;
    this.request?.abort();
  }

  forget() {
    localStorage.removeItem(this.place);
  }

  async create() {
    const answer = await this.ask('POST', '/api/uploads', {
      'Upload-Length': this.file.size,
      'Upload-Metadata': `filename ${base64(this.file.name)}`,
    });
    this.url = new URL(answer.getResponseHeader('Location'), location.href).pathname;
    localStorage.setItem(this.place, this.url);
  }

  // Asks where to go on, and sends from there until something breaks.
  async goOn() {
    let answer;
    try {
      answer = await this.ask('HEAD', this.url);
    } catch (error) {
      if (error.status !== 404) throw error;
      this.forget();
      Object.assign(this, { url: null, offset: 0 });
      return;
    }
    this.offset = Number(answer.getResponseHeader('Upload-Offset'));
    if (Number(answer.getResponseHeader('Upload-Length')) !== this.file.size) {
      Object.assign(this, { url: null, offset: 0 });
      return;
    }
    while (this.offset < this.file.size && !this.ended) {
      const piece = this.file.slice(this.offset, this.offset + PIECE);
      const sent = await this.ask('PATCH', this.url, {
        'Upload-Offset': this.offset,
        'Content-Type': 'application/offset+octet-stream',
      }, piece);
      this.offset = Number(sent.getResponseHeader('Upload-Offset'));
    }
  }

  // fetch() does not tell how much of a body is sent.
  ask(method, url, headers = {}, body = null) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      this.request = request;
      request.open(method, url);
      for (const [name, value] of Object.entries({ ...VERSION, ...headers })) {
        request.setRequestHeader(name, value);
      }
      if (body) {
        request.upload.addEventListener('progress', event =>
          this.told({ offset: this.offset + event.loaded, waiting: '' }));
      }
      request.addEventListener('loadend', () => {
        const { status } = request;
        if (status >= 200 && status < 300) return resolve(request);
        const words = status === 0 ? 'No connection' : detail(request);
        const passes = PASSES.includes(status) || (status === 404 && method === 'HEAD');
        const error = status === 401 ? new Error('Your session has ended: sign in in another tab')
          : passes ? new Error(words) : new Refused(words);
        reject(Object.assign(error, { status }));
      });
      request.send(body);
    });
  }
}

function detail(request) {
  try {
    return JSON.parse(request.responseText).detail;
  } catch {
    return `The node answered ${request.status}`;
  }
}

// Waits, but not for a network that has just come back.
function pause(ms) {
  return new Promise(resolve => {
    const go = () => {
      clearTimeout(timer);
      removeEventListener('online', go);
      resolve();
    };
    const timer = setTimeout(go, ms);
    addEventListener('online', go);
  });
}

function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}

// 64 bits of FNV-1a: no name of a file is kept in the browser.
function digest(parts) {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(parts.join('\0'))) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  }
  return hash.toString(16);
}
