// Asks before a form is sent by a button that says what it should ask.

import { sure } from '/pages/words.js';

document.addEventListener('submit', async event => {
  const { target: form, submitter: button } = event;
  if (!button?.dataset.question || button.dataset.sure) return;
  event.preventDefault();
  if (!(await sure(button.dataset.question, button.textContent))) return;
  button.dataset.sure = 'yes';
  form.requestSubmit(button);
});
