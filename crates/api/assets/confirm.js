// The button wakes after a second in which the page was in sight, so that a click meant for another window
// confirms nothing. Coming back to this window starts the second anew.
const button = document.getElementById('confirm');
const line = document.getElementById('status');
let timer;
let sent = false;

function doze() {
  clearTimeout(timer);
  if (!sent) button.disabled = true;
}

function wake() {
  doze();
  if (sent || document.visibilityState !== 'visible') return;
  timer = setTimeout(() => {
    button.disabled = false;
    line.textContent = line.dataset.awake;
  }, 1000);
}

button.form.addEventListener('submit', (event) => {
  if (sent) event.preventDefault();
  sent = true;
  clearTimeout(timer);
});
document.addEventListener('visibilitychange', wake);
addEventListener('focus', wake);
addEventListener('blur', doze);
// The page comes back from the browser's history as it was left.
addEventListener('pageshow', () => { sent = false; wake(); });
wake();
