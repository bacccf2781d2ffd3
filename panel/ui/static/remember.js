// Keeps the reader's language in a cookie, so that the next visit without ?lang= has it too.
export default function (component) {
  const { name, value, days } = component.data;
  document.cookie = `${name}=${value}; path=/; max-age=${days * 86400}; samesite=lax`;
}
