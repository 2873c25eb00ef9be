// Binds this browser to the flow and goes on to the provider. Without script the form does the same.
const form = document.getElementById('start');
const alertLine = document.getElementById('alert');

async function goOn() {
  const response = await fetch(form.action, {
    method: 'POST',
    headers: { accept: 'application/json' },
    redirect: 'error',
    cache: 'no-store',
  });
  // A refusal has a page of its own, which the form's answer shows.
  if (response.status >= 400 && response.status < 500) return form.submit();
  const target = new URL((await response.json()).location);
  if (!response.ok || !/^https?:$/.test(target.protocol)) throw new Error('no address to go to');
  location.replace(target.href);
}

goOn().catch(() => { alertLine.textContent = alertLine.dataset.failed; });
