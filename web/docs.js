// Shows /openapi.json with the vendored Swagger UI, in the colours that the system asks for.

const dark = matchMedia('(prefers-color-scheme: dark)');
const paint = () => document.documentElement.classList.toggle('dark-mode', dark.matches);
dark.addEventListener('change', paint);
paint();

const streamShownMs = 5000;

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
