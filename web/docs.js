// Shows /openapi.json with the vendored Swagger UI, in the colours that the system asks for.

const dark = matchMedia('(prefers-color-scheme: dark)');
const paint = () => document.documentElement.classList.toggle('dark-mode', dark.matches);
dark.addEventListener('change', paint);
paint();

const streamShownMs = 5000;

// Names that the viewer does not give to its controls.
const names = {
  '.close-modal': 'Close',
  '.examples-select-element': 'Example',
  '.body-param__text': 'Request body',
};

function mend() {
  for (const [css, name] of Object.entries(names)) {
    for (const node of document.querySelectorAll(css)) if (node.ariaLabel !== name) node.ariaLabel = name;
  }
  // Their own words are better than these names.
  for (const button of document.querySelectorAll('.modal-btn[aria-label]')) button.removeAttribute('aria-label');
  // A wide example is scrolled with the keyboard too.
  for (const example of document.querySelectorAll('pre.microlight:not([tabindex])')) example.tabIndex = 0;
  // A link inside the button that opens an operation: the button alone is enough.
  for (const link of document.querySelectorAll('.opblock-summary-control a[href]')) link.removeAttribute('href');
}

new MutationObserver(mend).observe(document.getElementById('docs'), {
  childList: true, subtree: true, attributes: true, attributeFilter: ['aria-label', 'href'],
});

// An event stream has no end: shows what comes in the first seconds.
async function fetchStart(url, options) {
  const stop = new AbortController();
  const answer = await fetch(url, { ...options, signal: stop.signal });
  if (!answer.headers.get('content-type')?.startsWith('text/event-stream')) return answer;
  const timer = setTimeout(() => stop.abort(), streamShownMs);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) text += part.value;
  } catch (error) {
    if (error.name !== 'AbortError') throw error;
  } finally {
    clearTimeout(timer);
  }
  return new Response(text, { status: answer.status, headers: answer.headers });
}

SwaggerUIBundle({
  url: '/openapi.json',
  domNode: document.getElementById('docs'),
  deepLinking: true,
  displayRequestDuration: true,
  filter: true,
  defaultModelsExpandDepth: 0,
  // Tokens are kept in memory only.
  persistAuthorization: false,
  validatorUrl: null,
  requestInterceptor(request) {
    if (new URL(request.url, location.href).pathname.endsWith('/events')) request.userFetch = fetchStart;
    return request;
  },
});
