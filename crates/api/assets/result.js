// Brings the outcome home: to the window that opened this one, or else to the application's relay page.
const page = document.getElementById('home');
const link = document.getElementById('return');
const line = document.getElementById('status');
const { origin, flow, handle, code, stay, told } = page.dataset;

// What the provider appended to the address has been used.
history.replaceState(null, '', location.pathname);

const goToRelay = () => location.replace(link.href);

if (window.opener) {
  const deaf = stay === undefined ? setTimeout(goToRelay, 800) : undefined;
  addEventListener('message', function acknowledged(event) {
    if (event.origin !== origin || event.source !== window.opener) return;
    if (event.data?.type !== 'valetkey-ack' || event.data.flow_id !== flow) return;
    clearTimeout(deaf);
    removeEventListener('message', acknowledged);
    line.textContent = told;
    link.addEventListener('click', (click) => {
      click.preventDefault();
      window.close();
    });
    // Long enough to be read out.
    if (stay === undefined) setTimeout(() => window.close(), 1500);
  });
  const message = { type: 'valetkey', flow_id: flow };
  if (handle !== undefined) message.handle = handle;
  if (code !== undefined) message.code = code;
  window.opener.postMessage(message, origin);
} else if (stay === undefined) {
  goToRelay();
}
